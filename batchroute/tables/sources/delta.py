"""A version of a Delta table, as a source of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.tables.lakes import delta_errors, open_delta, parse_time


class DeltaVersion:
    """One version of a Delta table."""

    def __init__(
        self, uri: str, options: Mapping[str, str], version: int | None, timestamp: str | None, where: str
    ) -> None:
        self._uri, self._options = uri, options
        self._version, self._timestamp, self._where = version, timestamp, where
        self.public = f"the Delta table {uri}"

    def pin(self) -> dict[str, Any]:
        """Raises:
        InputError: there is no such table or version.
        """
        with delta_errors(self.public):
            table = open_delta(self._uri, self._options, self._version)
            if table is None:
                raise InputError(f"input.delta: there is no Delta table at {self._uri}")
            if self._timestamp is not None:
                table.load_as_version(parse_time(self._timestamp))
            return {"delta": self._uri, "version": table.version()}

    def schema(self, pinned: dict[str, Any]) -> pa.Schema:
        with self.rows(pinned) as reader:
            return reader.schema

    @contextmanager
    def rows(self, pinned: dict[str, Any]) -> Iterator[pa.RecordBatchReader]:
        with delta_errors(self.public):
            import deltalake

            table = open_delta(self._uri, self._options, pinned["version"])
            query = f"select * from prompts where {self._where}" if self._where else "select * from prompts"
            stream = deltalake.QueryBuilder().register("prompts", table).execute(query)
            yield pa.RecordBatchReader.from_stream(stream)
