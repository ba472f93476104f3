"""Sources without a version: a query, and files with `only_new`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyarrow as pa

from batchroute.tables.files import Files
from batchroute.tables.parquet import PromptTable
from batchroute.tables.sources.base import InputSpec
from batchroute.tables.warehouse import Warehouse


class Query:
    """The rows of a query. Run again, the query may give other rows."""

    def __init__(self, spec: InputSpec) -> None:
        self._warehouse, self._query = Warehouse(spec.warehouse), spec.query
        self.public = f"a query of {self._warehouse.public}"

    def pin(self) -> dict[str, Any]:
        return {}

    def schema(self, pinned: dict[str, Any]) -> pa.Schema:
        return self._warehouse.schema(self._query)

    def rows(self, pinned: dict[str, Any]) -> AbstractContextManager[pa.RecordBatchReader]:
        return self._warehouse.query(self._query)


class FileRows:
    """The rows of files, of which `only_new` keeps some."""

    def __init__(self, spec: InputSpec) -> None:
        self._files = Files(spec.uri, spec.storage_options)
        self._strict = spec.drift == "strict"
        self.public, self.drift = spec.uri, ""

    def pin(self) -> dict[str, Any]:
        return {"files": [file.record() for file in self._files.seal(self._files.find())]}

    def schema(self, pinned: dict[str, Any]) -> pa.Schema:
        return self._table().schema

    def rows(self, pinned: dict[str, Any]) -> AbstractContextManager[pa.RecordBatchReader]:
        table = self._table()
        self.drift = table.drift
        table.check_times()
        reader = pa.RecordBatchReader.from_batches(table.schema, table.reader().read(0, table.rows))
        return nullcontext(reader)

    def _table(self) -> PromptTable:
        return PromptTable.open(self._files.find(), self._files, self._strict)
