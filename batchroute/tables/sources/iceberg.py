"""A snapshot of an Iceberg table, as a source of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.tables.lakes import iceberg_errors, open_catalog, parse_time


class IcebergSnapshot:
    """One snapshot of an Iceberg table."""

    def __init__(
        self, name: str, catalog: Mapping[str, str], version: int | None, timestamp: str | None, where: str
    ) -> None:
        self._name, self._catalog = name, catalog
        self._version, self._timestamp, self._where = version, timestamp, where
        self.public = f"the Iceberg table {name}"

    def pin(self) -> dict[str, Any]:
        """Raises:
        InputError: there is no such catalog, table or snapshot.
        """
        with iceberg_errors(self.public):
            table = self._table()
            snapshot = table.current_snapshot()
            if self._version is not None:
                snapshot = table.snapshot_by_id(self._version)
            if self._timestamp is not None:
                snapshot = table.snapshot_as_of_timestamp(int(parse_time(self._timestamp).timestamp() * 1000))
            if snapshot is None and (self._version or self._timestamp):
                raise InputError(f"{self.public} has no snapshot {self._version or 'at ' + str(self._timestamp)}")
            return {"iceberg": self._name, "version": snapshot.snapshot_id if snapshot else None}

    def schema(self, pinned: dict[str, Any]) -> pa.Schema:
        with self.rows(pinned) as reader:
            return reader.schema

    @contextmanager
    def rows(self, pinned: dict[str, Any]) -> Iterator[pa.RecordBatchReader]:
        with iceberg_errors(self.public):
            from pyiceberg.expressions import AlwaysTrue

            scan = self._table().scan(row_filter=self._where or AlwaysTrue(), snapshot_id=pinned["version"])
            yield scan.to_arrow_batch_reader()

    def _table(self) -> Any:
        return open_catalog(self._catalog).load_table(self._name)
