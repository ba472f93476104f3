"""Prompt tables in parquet: rows of many files as one table, read in ranges."""

from __future__ import annotations

import bisect
import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.errors import InputError
from batchroute.tables.damage import damage_named
from batchroute.tables.drift import check_alike, conform, union, with_hive
from batchroute.tables.files import Files, InputFile
from batchroute.tables.footers import int96_columns
from batchroute.tables.types import has_nested_dictionary, holds, is_id, names_groups

_READ_ROWS, _BATCHES_AHEAD = 4096, 4
# A batch is cut by its size, too: rows of half a megabyte come in batches of 16. How large rows are is known for sure
# when the first ones are read, since footers count a value that repeats but once.
_BATCH_BYTES, _FIRST_ROWS, _GROWTH = 8 << 20, 64, 8
# What streams of all columns of a file may hold together, and each of them.
_BUFFERS, _MOST_BUFFER, _LEAST_BUFFER = 64 << 20, 4 << 20, 64 << 10


@dataclass(frozen=True)
class PromptTable:
    """The rows of all input files as one table; a row's *position* is its number over all files, from 0."""

    files: list[InputFile]
    schema: pa.Schema
    """Of all files, with their hive columns at the end."""
    offsets: list[int]
    """The position of each file's first row, and the number of rows at the end."""
    source: Files
    lacking: dict[str, str] = field(default_factory=dict, kw_only=True)
    """The first file without it, by column."""
    drift: str = field(default="", kw_only=True)
    """What differs between the columns of the files, in words."""

    @classmethod
    def open(cls, files: list[InputFile], source: Files | None = None, strict: bool = False) -> PromptTable:
        """The table whose columns are those of all files.

        Args:
            strict: refuse files whose columns differ.

        Raises:
            InputError: columns of one name differ so that values would be lost, or at all where `strict`.
        """
        source = source or Files()
        schemas = source.schemas(files)
        columns = union(files, schemas, source)
        if strict:
            check_alike(files, schemas)
        schema = with_hive(columns.schema, files, schemas, source)
        lacking = {name: path for name, path in columns.lacking.items() if name not in files[0].hive}
        offsets = list(itertools.accumulate((file.rows for file in files), initial=0))
        return cls(files, schema, offsets, source, lacking=lacking, drift=columns.in_words)

    @property
    def rows(self) -> int:
        return self.offsets[-1]

    def row_groups(self) -> int:
        return sum(self.source.footer(file).num_row_groups for file in self.files)

    def where(self, position: int) -> str:
        """A row in words that a user finds: `part-0.parquet, row 17` (rows count from 0)."""
        index = bisect.bisect_right(self.offsets, position) - 1
        return f"{os.path.basename(self.files[index].path)}, row {position - self.offsets[index]}"

    def check_column(self, column: str, key: str) -> None:
        """Raises:
        InputError: there is no such column.
        """
        self._type(column, key)

    def check_everywhere(self, column: str, key: str) -> None:
        """Raises:
        InputError: a file lacks the column.
        """
        if column in self.lacking:
            raise InputError(f"{key}: {self.lacking[column]} has no column '{column}', which other files have")

    def check_id(self, column: str) -> None:
        """Raises:
        InputError: a file lacks the column, or its values cannot be told apart.
        """
        kind = self._type(column, "input.id")
        self.check_everywhere(column, "input.id")
        if not is_id(kind):
            raise InputError(
                f"input.id: column '{column}' is {kind}; an id is text, a number, bytes, a UUID, a date or a time"
            )

    def check_groupable(self, column: str, key: str) -> None:
        """Raises:
        InputError: there is no such column, or its values are no names for groups.
        """
        kind = self._type(column, key)
        if not names_groups(kind):
            raise InputError(f"{key}: column '{column}' is {kind}; group by text, numbers, dates or booleans")
        if column in ("", "*") or (column.startswith("^") and column.endswith("$")):
            # polars, which adds the groups up, would read it as a pattern of names.
            raise InputError(f"{key}: a column named '{column}' cannot be grouped by; rename it")

    def _type(self, column: str, key: str) -> pa.DataType:
        if column not in self.schema.names:
            raise InputError(f"{key}: no column '{column}' in the input; it has {', '.join(self.schema.names)}")
        return self.schema.field(column).type

    def check_times(self) -> None:
        """Read the timestamps of 96 bits, which come out in nanoseconds. Footers do not tell their range.

        Raises:
            InputError: one is before 1677 or after 2262, which nanoseconds do not reach.
        """
        if not any(holds(kind, _is_nanoseconds) for kind in self.schema.types):
            return
        for file in self.files:
            columns = int96_columns(self.source.footer(file), self.schema.names)
            if not columns:
                continue
            with _opened(self.source, file, len(columns), coerce_int96_timestamp_unit="us") as opened:
                for batch in opened.iter_batches(_READ_ROWS, columns=columns, use_threads=False):
                    for name, column in zip(batch.schema.names, batch.columns, strict=True):
                        try:
                            column.cast(self.schema.field(name).type)
                        except pa.ArrowInvalid as error:
                            raise InputError(
                                f"input: column '{name}' of {file.path} has a timestamp of 96 bits that is not in the "
                                "years 1678 to 2261, which nanoseconds reach; write it in microseconds, as Spark does "
                                "with spark.sql.parquet.outputTimestampType=TIMESTAMP_MICROS"
                            ) from error

    def reader(self, columns: Sequence[str] | None = None) -> RowReader:
        """A reader of these columns (all, when None), in the order of the schema."""
        names = [name for name in self.schema.names if columns is None or name in columns]
        return RowReader(self, names)


class RowReader:
    """Reads ranges of rows. Ranges in rising order are read in one pass over the files; memory holds one batch."""

    def __init__(self, table: PromptTable, columns: list[str]) -> None:
        self._table = table
        self.schema = pa.schema([table.schema.field(name) for name in columns], metadata=table.schema.metadata)
        self._batches = _batches(table, self.schema, 0, 0)
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
        self._batches = _batches(self._table, self.schema, index, group)


def _batches(table: PromptTable, schema: pa.Schema, index: int, group: int) -> Iterator[pa.RecordBatch]:
    """The rows from a row group of a file on. No method of the reader: a cycle of references would keep a page of many
    megabytes until Python happens to look for cycles.
    """
    for number in range(index, len(table.files)):
        file = table.files[number]
        groups = range(group if number == index else 0, table.source.footer(file).num_row_groups)
        batches = (conform(batch, schema, file) for batch in _stored(table.source, schema, file, groups))
        yield from batches if table.source.is_local else _ahead(batches)


def _stored(source: Files, schema: pa.Schema, file: InputFile, groups: range) -> Iterator[pa.RecordBatch]:
    """The rows as the file has them."""
    source.check_unchanged(file)
    one_by_one = any(has_nested_dictionary(kind) for kind in schema.types)
    rows = min(_FIRST_ROWS, max(1, _BATCH_BYTES * file.rows // max(1, file.bytes)))
    with _opened(source, file, len(schema)) as opened:
        columns = [name for name in schema.names if name in opened.schema_arrow.names]
        with damage_named(opened, file.path, columns):
            for together in [[group] for group in groups] if one_by_one else [groups]:
                for batch in opened.iter_batches(rows, together, columns, use_threads=False):
                    yield batch
                    rows = _rows_of_size(batch, rows)
                    opened.reader.set_batch_size(rows)


def _opened(source: Files, file: InputFile, columns: int, **settings: Any) -> pq.ParquetFile:
    # Buffered streams: a column chunk of a gigabyte must not come into memory whole.
    buffer = min(_MOST_BUFFER, max(_LEAST_BUFFER, _BUFFERS // max(1, columns)))
    if source.is_local:
        buffer = min(buffer, 1 << 20)
    return pq.ParquetFile(
        source.open(file),
        metadata=source.footer(file),
        pre_buffer=False,
        buffer_size=buffer,
        page_checksum_verification=True,
        **settings,
    )


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yields the batches; a thread reads the next ones ahead."""
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, batches, None) for _ in range(_BATCHES_AHEAD))
        while (batch := coming.popleft().result()) is not None:
            coming.append(pool.submit(next, batches, None))
            yield batch


def _is_nanoseconds(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) and kind.unit == "ns")


def _rows_of_size(batch: pa.RecordBatch, rows: int) -> int:
    """How many rows to read next, so that a batch is of `_BATCH_BYTES`, or of `_READ_ROWS` where rows are short."""
    fit = _BATCH_BYTES * int(batch.num_rows) // max(1, int(batch.nbytes))
    return max(1, min(fit, _GROWTH * rows, _READ_ROWS))


@dataclass(frozen=True)
class PickedTable(PromptTable):
    """The rows at `positions`, in rising order; row 0 is the row at `positions[0]`."""

    positions: npt.NDArray[np.int64]

    @classmethod
    def of(cls, table: PromptTable, positions: npt.NDArray[np.int64]) -> PickedTable:
        return cls(table.files, table.schema, table.offsets, table.source, positions, lacking=table.lacking)

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
