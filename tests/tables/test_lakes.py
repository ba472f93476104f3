from __future__ import annotations

from pathlib import Path

import pytest
from pyiceberg.catalog.sql import SqlCatalogBaseTable

from batchroute.errors import StoppedError
from batchroute.tables.lakes import iceberg_errors, open_catalog


def test_a_catalog_that_another_writer_makes_meanwhile_is_worth_another_attempt(tmp_path: Path) -> None:
    catalog = open_catalog(
        {"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}"}
    )
    first = r"^the table: another writer was first: \(sqlite3\.OperationalError\) table iceberg_\w+ already exists$"
    with pytest.raises(StoppedError, match=first), iceberg_errors("the table"):
        SqlCatalogBaseTable.metadata.create_all(catalog.engine, checkfirst=False)
