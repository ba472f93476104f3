"""Tables that answers are loaded into, after the commit of the files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from batchroute.errors import InputError
from batchroute.tables.targets.settings import TableSpec

if TYPE_CHECKING:
    from batchroute.tables.targets.base import Target

_REDSHIFT = re.compile(r"\.redshift(?:-serverless)?\.amazonaws\.com\b", re.IGNORECASE)


def target_of(spec: TableSpec | None, key: str | None) -> Target | None:
    """The table of `output.table`; None where the job has none.

    Args:
        key: the column that mode `upsert` identifies rows by.
    """
    if spec is None:
        return None
    if spec.warehouse:
        return _of_warehouse(spec, key)
    if spec.delta:
        from batchroute.tables.targets.delta import DeltaTarget

        return DeltaTarget(spec, key)
    from batchroute.tables.targets.iceberg import IcebergTarget

    return IcebergTarget(spec)


def _of_warehouse(spec: TableSpec, key: str | None) -> Target:
    """Raises:
    InputError: the warehouse is not a URI, or its tables are not loaded.
    """
    from batchroute.tables.targets.snowflake import SnowflakeTarget
    from batchroute.tables.targets.sql import HOLDS, SqlTarget
    from batchroute.tables.warehouse import Warehouse

    scheme = Warehouse(spec.warehouse, "output.table.warehouse").scheme
    if scheme == "postgresql" and _REDSHIFT.search(spec.warehouse):
        raise InputError(
            "output.table.warehouse: tables of Redshift are not loaded, since it enforces no primary keys and rows "
            "could be loaded twice; load the committed files of output.uri by its COPY"
        )
    if scheme == "snowflake":
        return SnowflakeTarget(spec, key)
    if scheme in HOLDS:
        return SqlTarget(spec, key, scheme)
    why = "no transactions, so that rows could be loaded twice" if scheme == "bigquery" else "never been tried here"
    raise InputError(
        f"output.table.warehouse: tables of {scheme}:// are not loaded, since its driver has {why}; load the committed "
        f"files of output.uri with its own tools, or name one of {', '.join([*HOLDS, 'snowflake'])}, delta and iceberg"
    )
