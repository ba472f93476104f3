"""Rows of JSON lines and of CSV. A first pass over all files finds the types of the columns."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.tables import csv_files, json_lines
from batchroute.tables.files import InputFile
from batchroute.tables.text_files import TYPES, TextFiles

_READERS = {"jsonl": json_lines, "csv": csv_files}


class TextRows:
    """The rows of files that are not parquet. Columns go by name: those of all files, null where a file lacks one."""

    def __init__(self, files: TextFiles, public: str) -> None:
        self._files, self._reader = files, _READERS[files.form]
        self.public = public

    def pin(self) -> dict[str, Any]:
        """The files and the types of the columns: `{"id": "int64", "prompt": "text", "messages": "JSON"}`.

        Raises:
            InputError: a file cannot be read, or has no rows of this format.
        """
        files = self._files.seal(self._files.find())
        kinds: dict[str, str | None] = {}
        for file in files:
            try:
                self._reader.columns_of(functools.partial(self._files.stream, file), file.path, kinds)
            except OSError as error:
                raise _unreadable(file) from error
        kinds |= {name: "text" for file in files for name in file.hive if name not in kinds}
        if not kinds:
            raise InputError(f"input.uri: {self.public} has no rows, and so no columns")
        columns = {name: kind or "text" for name, kind in kinds.items()}
        return {"files": [file.record() | {"hive": file.hive} for file in files], "columns": columns}

    def schema(self, pinned: dict[str, Any]) -> pa.Schema:
        return pa.schema([(name, TYPES[kind]) for name, kind in pinned["columns"].items()])

    def rows(self, pinned: dict[str, Any]) -> AbstractContextManager[pa.RecordBatchReader]:
        return nullcontext(pa.RecordBatchReader.from_batches(self.schema(pinned), self._batches(pinned)))

    def _batches(self, pinned: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        for file in map(InputFile.model_validate, pinned["files"]):
            self._files.check_unchanged(file)
            opening = functools.partial(self._files.stream, file)
            try:
                for batch in self._reader.batches(opening, file.path, pinned["columns"]):
                    yield _with_hive(batch, file)
            except OSError as error:
                raise _unreadable(file) from error


def columns_in_words(pinned: dict[str, Any]) -> str:
    """What the first pass found: `id int64, prompt text`."""
    return ", ".join(f"{name} {kind}" for name, kind in pinned["columns"].items())


def _with_hive(batch: pa.RecordBatch, file: InputFile) -> pa.RecordBatch:
    """The batch with the values of its partition folders, in columns that its file does not have."""
    for name, value in file.hive.items():
        at = batch.schema.names.index(name)
        if batch.column(at).null_count == batch.num_rows and value is not None:
            column = pa.array([value] * batch.num_rows, pa.string()).cast(batch.schema.field(at).type)
            batch = batch.set_column(at, name, column)
    return batch


def _unreadable(file: InputFile) -> InputError:
    return InputError(f"input: {file.path} cannot be read: it is damaged, or not compressed as its name says")
