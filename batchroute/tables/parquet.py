"""Prompt tables in parquet: a file, a glob, or a folder with or without hive partitions."""

from __future__ import annotations

import bisect
import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import split_protocol
from pydantic import BaseModel, ConfigDict

from batchroute.errors import InputError

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_READ_ROWS = 4096
_WHOLE = re.compile("-?[0-9]{1,18}")

PromptKind = Literal["text", "messages"]


class InputSpec(BaseModel):
    """Where the prompts are."""

    model_config = ConfigDict(extra="forbid")

    uri: str
    prompt: str = "prompt"
    id: str | None = None


class InputFile(BaseModel):
    """One file of the input, as it was when the run began."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    mtime_ns: int
    rows: int
    bytes: int
    """Of all columns, before compression."""
    hive: dict[str, str | None]


def find(uri: str) -> list[InputFile]:
    """The files of the input, in the order of their paths, with row counts from their footers.

    Raises:
        InputError: nothing matches, or a file is no parquet.
    """
    protocol, path = split_protocol(uri)
    if protocol not in (None, "file", "local"):
        raise InputError(f"input.uri '{uri}': {protocol}:// is not supported; give a local path")
    path = os.path.abspath(os.path.expanduser(path))
    filesystem = fsspec.filesystem("file", use_listings_cache=False, skip_instance_cache=True)
    is_glob = any(character in path for character in "*?[") and not os.path.exists(path)
    if is_glob:
        base = str(Path(*itertools.takewhile(lambda part: not set(part) & set("*?["), Path(path).parts)))
        found = filesystem.glob(path)
    elif os.path.isdir(path):
        base, found = path, filesystem.glob(f"{glob.escape(path)}/**/*.parquet")
    else:
        base, found = path, [path]
    files = [name for name in sorted(found) if os.path.isfile(name)]
    visible = [name for name in files if not _hidden(os.path.relpath(name, base))]
    if not visible:
        what = "no file matches" if is_glob else "no parquet file in" if os.path.isdir(path) else "no such file:"
        raise InputError(f"input.uri: {what} {path}")
    return [_inspect(name, base) for name in visible]


def _hidden(relative: str) -> bool:
    # Spark's _SUCCESS and _temporary, editors' and our own dot-files.
    return any(part.startswith(("_", ".")) and "=" not in part for part in Path(relative).parts)


def _inspect(path: str, base: str) -> InputFile:
    status = os.stat(path)
    metadata = _footer(path)
    folders = Path(os.path.relpath(path, base)).parts[:-1]
    pairs = dict(part.split("=", 1) for part in folders if "=" in part)
    hive = {key: None if value == _HIVE_NULL else unquote(value) for key, value in pairs.items()}
    uncompressed = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    return InputFile(
        path=path,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        rows=metadata.num_rows,
        bytes=uncompressed,
        hive=hive,
    )


def _footer(path: str) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = "permission denied" if isinstance(error, PermissionError) else "not a readable parquet file"
        raise InputError(f"input: {path} is {reason}") from error


@dataclass(frozen=True)
class PromptTable:
    """The rows of all input files as one table; a row's *position* is its number over all files, from 0."""

    files: list[InputFile]
    schema: pa.Schema
    """Of the input with its hive columns at the end."""
    offsets: list[int]
    """The position of each file's first row, and the number of rows at the end."""

    @classmethod
    def open(cls, files: list[InputFile]) -> PromptTable:
        """Raises:
        InputError: the files' columns differ.
        """
        schema = _file_schema(files[0])
        twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"input: {files[0].path} has two columns '{twice}'; rename one of them")
        for file in files[1:]:
            other = _file_schema(file)
            _check_same_columns(schema, files[0], other, file)
            # A column that one file promises to be free of nulls may hold them in another.
            fields = [field.with_nullable(field.nullable or other.field(field.name).nullable) for field in schema]
            schema = pa.schema(fields, metadata=schema.metadata)
        offsets = list(itertools.accumulate((file.rows for file in files), initial=0))
        return cls(files, _with_hive(schema, files), offsets)

    @property
    def rows(self) -> int:
        return self.offsets[-1]

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
        if _is_text(kind):
            return "text"
        if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_message(kind.value_type):
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
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise InputError(f"{key}: column '{column}' is {kind}; group by text, numbers, dates or booleans")

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
        metadata = _footer(table.files[index].path)
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
            _check_unchanged(file)
            # A buffered stream: a column chunk of a gigabyte must not come into memory whole.
            with pq.ParquetFile(file.path, pre_buffer=False, buffer_size=1 << 20) as source:
                groups = range(group if number == index else 0, source.metadata.num_row_groups)
                for batch in source.iter_batches(_READ_ROWS, groups, stored, use_threads=False):
                    yield self._complete(batch, file)

    def _complete(self, batch: pa.RecordBatch, file: InputFile) -> pa.RecordBatch:
        """The batch with its hive columns, in the order of the schema."""
        columns = [
            batch.column(field.name)
            if field.name in batch.schema.names
            else pa.array([file.hive[field.name]] * batch.num_rows, pa.string()).cast(field.type)
            for field in self.schema
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _check_unchanged(file: InputFile) -> None:
    try:
        status = os.stat(file.path)
    except FileNotFoundError as error:
        raise InputError(f"input: {file.path} is gone since the run began") from error
    if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
        raise InputError(f"input: {file.path} has changed since the run began; put it back, or start with --fresh")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_message(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return {"role", "content"} <= fields.keys() and _is_text(fields["role"]) and _is_text(fields["content"])


def _file_schema(file: InputFile) -> pa.Schema:
    return pq.read_schema(file.path)


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
            raise InputError(f"input: {file.path} has a column '{name}' that {first_file.path} has not")


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
