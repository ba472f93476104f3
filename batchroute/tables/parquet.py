"""Prompt tables in parquet: rows of many files as one table, read in ranges."""

from __future__ import annotations

import bisect
import itertools
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.errors import InputError
from batchroute.tables.files import Files, InputFile
from batchroute.tables.types import has_nested_dictionary, is_message, is_text, names_groups

_READ_ROWS, _BATCHES_AHEAD = 4096, 4
# What streams of all columns of a file may hold together, and each of them.
_BUFFERS, _MOST_BUFFER, _LEAST_BUFFER = 64 << 20, 4 << 20, 64 << 10
_WHOLE = re.compile("-?[0-9]{1,18}")

PromptKind = Literal["text", "messages"]


@dataclass(frozen=True)
class PromptTable:
    """The rows of all input files as one table; a row's *position* is its number over all files, from 0."""

    files: list[InputFile]
    schema: pa.Schema
    """Of the input with its hive columns at the end."""
    offsets: list[int]
    """The position of each file's first row, and the number of rows at the end."""
    source: Files

    @classmethod
    def open(cls, files: list[InputFile], source: Files | None = None) -> PromptTable:
        """Raises:
        InputError: the files' columns differ.
        """
        source = source or Files()
        schemas = source.schemas(files)
        schema = schemas[0]
        twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"input: {files[0].path} has two columns '{twice}'; rename one of them")
        for file, other in zip(files[1:], schemas[1:], strict=True):
            _check_same_columns(schema, files[0], other, file)
            # A column that one file promises to be free of nulls may hold them in another.
            fields = [field.with_nullable(field.nullable or other.field(field.name).nullable) for field in schema]
            schema = pa.schema(fields, metadata=schema.metadata)
        offsets = list(itertools.accumulate((file.rows for file in files), initial=0))
        return cls(files, _with_hive(schema, files), offsets, source)

    @property
    def rows(self) -> int:
        return self.offsets[-1]

    def row_groups(self) -> int:
        return sum(self.source.footer(file).num_row_groups for file in self.files)

    def where(self, position: int) -> str:
        """A row in words that a user finds: `part-0.parquet, row 17` (rows count from 0)."""
        index = bisect.bisect_right(self.offsets, position) - 1
        return f"{os.path.basename(self.files[index].path)}, row {position - self.offsets[index]}"

    def prompt_kind(self, column: str) -> PromptKind:
        """Raises:
        InputError: the column is missing or holds neither text nor chat messages.
        """
        kind = self._type(column, "input.prompt")
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if is_text(kind):
            return "text"
        if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and is_message(kind.value_type):
            return "messages"
        raise InputError(
            f"input.prompt: column '{column}' is {kind}; a prompt is text, or a list of messages {{role, content}}"
        )

    def check_column(self, column: str, key: str) -> None:
        """Raises:
        InputError: there is no such column.
        """
        self._type(column, key)

    def check_groupable(self, column: str, key: str) -> None:
        """Raises:
        InputError: there is no such column, or its values are no names for groups.
        """
        kind = self._type(column, key)
        if not names_groups(kind):
            raise InputError(f"{key}: column '{column}' is {kind}; group by text, numbers, dates or booleans")
        if column == "*" or (column.startswith("^") and column.endswith("$")):
            # polars, which adds the groups up, would read it as a pattern of names.
            raise InputError(f"{key}: a column named '{column}' cannot be grouped by; rename it")

    def _type(self, column: str, key: str) -> pa.DataType:
        if column not in self.schema.names:
            raise InputError(f"{key}: no column '{column}' in the input; it has {', '.join(self.schema.names)}")
        return self.schema.field(column).type

    def reader(self, columns: Sequence[str] | None = None) -> RowReader:
        """A reader of these columns (all, when None), in the order of the schema."""
        names = [name for name in self.schema.names if columns is None or name in columns]
        return RowReader(self, names)


class RowReader:
    """Reads ranges of rows. Ranges in rising order are read in one pass over the files; memory holds one batch."""

    def __init__(self, table: PromptTable, columns: list[str]) -> None:
        self._table = table
        self.schema = pa.schema([table.schema.field(name) for name in columns], metadata=table.schema.metadata)
        self._batches = self._iterate(0, 0)
        self._batch: pa.RecordBatch | None = None
        self._batch_start = 0
        self._end = 0

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """The rows at positions `start` up to `stop`, in batches of no fixed size."""
        if start >= stop:
            return
        if start < self._batch_start:
            self._seek(*self._locate(start))
        elif start > self._end:
            index, group, group_start = self._locate(start)
            # Within a row group it is cheaper to read on than to begin the group again.
            if group_start > self._end:
                self._seek(index, group, group_start)
        while start < stop:
            if self._batch is None or start >= self._end:
                self._batch_start = self._end
                self._batch = next(self._batches)
                self._end += self._batch.num_rows
                continue
            piece = self._batch.slice(start - self._batch_start, min(stop, self._end) - start)
            start += piece.num_rows
            yield piece

    def _locate(self, position: int) -> tuple[int, int, int]:
        """The file and the row group that hold `position`, and the position of the group's first row."""
        table = self._table
        index = bisect.bisect_right(table.offsets, position) - 1
        metadata = table.source.footer(table.files[index])
        group, group_start = 0, table.offsets[index]
        while group_start + metadata.row_group(group).num_rows <= position:
            group_start += metadata.row_group(group).num_rows
            group += 1
        return index, group, group_start

    def _seek(self, index: int, group: int, group_start: int) -> None:
        self._batch, self._batch_start, self._end = None, group_start, group_start
        self._batches = self._iterate(index, group)

    def _iterate(self, index: int, group: int) -> Iterator[pa.RecordBatch]:
        for number in range(index, len(self._table.files)):
            file = self._table.files[number]
            stored = [name for name in self.schema.names if name not in _hive_names(self._table.files)]
            groups = range(group if number == index else 0, self._table.source.footer(file).num_row_groups)
            batches = (self._complete(batch, file) for batch in self._stored(file, groups, stored))
            yield from batches if self._table.source.is_local else _ahead(batches)

    def _stored(self, file: InputFile, groups: range, columns: list[str]) -> Iterator[pa.RecordBatch]:
        self._table.source.check_unchanged(file)
        # Buffered streams: a column chunk of a gigabyte must not come into memory whole.
        buffer = min(_MOST_BUFFER, max(_LEAST_BUFFER, _BUFFERS // max(1, len(columns))))
        if self._table.source.is_local:
            buffer = min(buffer, 1 << 20)
        where = self._table.source.open(file)
        one_by_one = any(has_nested_dictionary(kind) for kind in self.schema.types)
        with pq.ParquetFile(where, pre_buffer=False, buffer_size=buffer) as opened:
            for together in [[group] for group in groups] if one_by_one else [groups]:
                yield from opened.iter_batches(_READ_ROWS, together, columns, use_threads=False)

    def _complete(self, batch: pa.RecordBatch, file: InputFile) -> pa.RecordBatch:
        """The batch with its hive columns, in the order of the schema."""
        columns = [
            batch.column(field.name)
            if field.name in batch.schema.names
            else pa.array([file.hive[field.name]] * batch.num_rows, pa.string()).cast(field.type)
            for field in self.schema
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yields the batches; a thread reads the next ones ahead."""
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, batches, None) for _ in range(_BATCHES_AHEAD))
        while (batch := coming.popleft().result()) is not None:
            coming.append(pool.submit(next, batches, None))
            yield batch


def _check_same_columns(first: pa.Schema, first_file: InputFile, schema: pa.Schema, file: InputFile) -> None:
    for field in first:
        if field.name not in schema.names:
            raise InputError(f"input: {file.path} has no column '{field.name}', but {first_file.path} has")
        if schema.field(field.name).type != field.type:
            raise InputError(
                f"input: column '{field.name}' is {schema.field(field.name).type} in {file.path}, "
                f"but {field.type} in {first_file.path}"
            )
    for name in schema.names:
        if name not in first.names:
            raise InputError(f"input: {file.path} has a column '{name}' that {first_file.path} does not have")


def _hive_names(files: list[InputFile]) -> list[str]:
    return list(files[0].hive)


def _with_hive(schema: pa.Schema, files: list[InputFile]) -> pa.Schema:
    if any(file.hive.keys() != files[0].hive.keys() for file in files):
        raise InputError("input: only some files are in partition folders like 'day=1'; partition all of them alike")
    for name in _hive_names(files):
        if name in schema.names:
            raise InputError(f"input: '{name}' is a column and a partition folder; rename one of them")
        values = [file.hive[name] for file in files]
        whole = all(value is None or _WHOLE.fullmatch(value) for value in values) and any(values)
        schema = schema.append(pa.field(name, pa.int64() if whole else pa.string()))
    return schema


@dataclass(frozen=True)
class PickedTable(PromptTable):
    """The rows at `positions`, in rising order; row 0 is the row at `positions[0]`."""

    positions: npt.NDArray[np.int64]

    @classmethod
    def of(cls, table: PromptTable, positions: npt.NDArray[np.int64]) -> PickedTable:
        return cls(table.files, table.schema, table.offsets, table.source, positions)

    @property
    def rows(self) -> int:
        return len(self.positions)

    def reader(self, columns: Sequence[str] | None = None) -> RowReader:
        return _PickedReader(super().reader(columns), self)


class _PickedReader(RowReader):
    """Reads the whole table and drops the rows between; ranges in rising order take one pass over the files."""

    def __init__(self, whole: RowReader, table: PickedTable) -> None:
        self._whole, self._positions, self.schema = whole, table.positions, whole.schema

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        for position in self._positions[start:stop].tolist():
            yield from self._whole.read(position, position + 1)
