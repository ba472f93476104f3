"""A table at a glance: its columns, its first rows, and which columns look like the id and the prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from batchroute.errors import InputError
from batchroute.storage.objects import is_local, local_path
from batchroute.storage.places import BUCKETS, in_one_spelling, protocol_of
from batchroute.storage.store import store_of
from batchroute.tables.chats import is_chat
from batchroute.tables.files import Files
from batchroute.tables.lakes import delta_errors, open_delta
from batchroute.tables.parquet import PromptTable
from batchroute.tables.queries import bare
from batchroute.tables.sources import source_of
from batchroute.tables.sources.base import InputSpec
from batchroute.tables.text_files import text_format
from batchroute.tables.types import is_text, portable
from batchroute.tables.warehouse import Warehouse

_SAMPLE, _SHOWN, _WIDTH = 1000, 5, 60
_ID_NAMES = ("id", "uuid", "key", "row_id", "prompt_id")
_PROMPT_NAMES = ("prompt", "question", "instruction", "messages", "text", "input", "query", "content")


@dataclass(frozen=True)
class Preview:
    """The first rows of a table."""

    what: str
    rows: int | None
    """Of the whole table; None where counting would read them all."""
    sample: pa.Table

    def id_column(self) -> str | None:
        """The column most likely to be the id: named like one, no nulls, no repeated values; None without one."""
        able = [
            field.name
            for field in self.sample.schema
            if (is_text(field.type) or _is_whole(field.type))
            and not self.sample[field.name].null_count
            and len(pc.unique(self.sample[field.name])) == self.sample.num_rows
        ]
        named = [name for name in able if name.lower() in _ID_NAMES or name.lower().endswith("_id")]
        return next(iter(named), None)

    def prompt_column(self) -> str | None:
        """The column most likely to be the prompt: chat messages, else named like one, else the longest text."""
        chats = [field.name for field in self.sample.schema if is_chat(field.type)]
        texts = [field.name for field in self.sample.schema if is_text(field.type)]
        named = [name for wanted in _PROMPT_NAMES for name in texts if name.lower() == wanted]
        longest = sorted((name for name in texts if name != self.id_column()), key=self._length, reverse=True)
        return next(iter([*chats, *named, *longest]), None)

    def _length(self, column: str) -> float:
        mean = pc.mean(pc.utf8_length(self.sample[column].cast(pa.large_string()))).as_py()
        return float(mean or 0)

    def show(self, console: Console) -> None:
        console.print(f"{self.what}: {'rows not counted' if self.rows is None else f'{self.rows:,} rows'}")
        marks = {self.prompt_column(): "looks like the prompt", self.id_column(): "looks like the id"}
        columns = Table("column", "type", "nulls", "")
        for field in self.sample.schema:
            nulls = f"{self.sample[field.name].null_count:,} of {self.sample.num_rows:,}"
            columns.add_row(Text(field.name), Text(str(field.type)), nulls, marks.get(field.name, ""))
        console.print(columns)
        rows = Table(*map(escape, self.sample.schema.names))
        for row in self.sample.slice(0, _SHOWN).to_pylist():
            rows.add_row(*(Text(_short(row[name])) for name in self.sample.schema.names))
        console.print(rows)


def preview(uri: str, query: str, table: str, catalog: Mapping[str, str], options: Mapping[str, Any]) -> Preview:
    """
    Args:
        uri: of files, a Delta table or a warehouse; or the name of an Iceberg table of `catalog`.
        query, table: of a warehouse, one of them.

    Raises:
        InputError, StoppedError: it is none of these, or cannot be read.
    """
    if "://" in uri and not _is_place_of_files(uri):
        if bool(query) == bool(table):
            raise InputError("of a warehouse, inspect a --table or a --query")
        query = bare(query) or f"select * from {table}"
        return _of_source({"warehouse": uri, "query": query}, _count(uri, query))
    if query or table:
        raise InputError("--query and --table are of a warehouse, such as postgresql://user@host/database")
    if catalog:
        return _of_source({"iceberg": uri, "catalog": dict(catalog)}, None)
    if (is_local(uri) and os.path.isdir(os.path.join(local_path(uri), "_delta_log"))) or _is_remote_delta(uri, options):
        delta = open_delta(uri, {name: str(value) for name, value in options.items()})
        return _of_source({"delta": uri, "storage_options": dict(options)}, delta.count())
    if text_format(uri) is not None:
        return _of_source({"uri": uri, "storage_options": dict(options)}, None)
    files = Files(uri, options)
    opened = PromptTable.open(files.find(), files)
    batches = opened.reader().read(0, min(_SAMPLE, opened.rows))
    return Preview(uri, opened.rows, pa.Table.from_batches(batches, opened.schema))


def _of_source(settings: dict[str, Any], rows: int | None) -> Preview:
    source = source_of(InputSpec.model_validate(settings))
    with source.rows(source.pin()) as reader:
        first: list[pa.RecordBatch] = []
        left = _SAMPLE
        for batch in reader:
            first.append(portable(batch.slice(0, left)))
            left -= batch.num_rows
            if left <= 0:
                break
        sample = pa.Table.from_batches(first) if first else reader.schema.empty_table()
    return Preview(source.public, rows, sample)


def _count(uri: str, query: str) -> int:
    with Warehouse(uri).query(f"select count(*) from ({query}\n) as batchroute_rows") as reader:
        return int(reader.read_all().column(0)[0].as_py())


def _is_place_of_files(uri: str) -> bool:
    from fsspec.registry import known_implementations

    return uri.partition("://")[0] in known_implementations


def _is_remote_delta(uri: str, options: Mapping[str, Any]) -> bool:
    if protocol_of(uri) not in BUCKETS:
        return False
    try:
        return bool(store_of(uri, options).first_keys(f"{in_one_spelling(uri).rstrip('/')}/_delta_log"))
    except InputError:
        # Options with deltalake's own names.
        with delta_errors(uri):
            return open_delta(uri, {name: str(value) for name, value in options.items()}) is not None


def _is_whole(kind: pa.DataType) -> bool:
    """Whether its values are whole numbers, such as Snowflake's."""
    return bool(pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0))


def _short(value: Any) -> str:
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
