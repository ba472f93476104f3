"""A field of each row: a column, or what lies in it at a dotted path, in structs and in JSON text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.tables.chats import BadPrompt
from batchroute.tables.types import bare, is_text


@dataclass(frozen=True, slots=True)
class Field:
    """A field of each row.

    Attributes:
        column: at the top of the table.
        path: names in the structs of the column.
        json_path: names in the JSON text that stands there; empty where the field is the text itself.
        type: of the Arrow values, without dictionary and extension; of the JSON text, where there is a path in it.
    """

    column: str
    path: tuple[str, ...]
    json_path: tuple[str, ...]
    type: pa.DataType

    @property
    def name(self) -> str:
        return ".".join([self.column, *self.path, *self.json_path])

    def array(self, batch: pa.RecordBatch | pa.Table) -> pa.Array:
        """The field as an Arrow array; the JSON text, where the field lies in it."""
        array = batch.column(self.column)
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        for name in ("", *self.path):
            array = _child(array, name) if name else array
            array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
            array = array.storage if isinstance(array.type, pa.BaseExtensionType) else array
        return array

    def values(self, batch: pa.RecordBatch | pa.Table) -> Iterable[Any]:
        """One value a row; a `BadPrompt` where it cannot be read."""
        values = _values(self.array(batch))
        return (self._in_json(text) for text in values) if self.json_path else values

    def _in_json(self, text: str | BadPrompt | None) -> Any:
        if text is None or isinstance(text, BadPrompt):
            return text
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return BadPrompt("bad_chat", f"column '{self.column}' holds no JSON, and input.prompt names a field in it")
        for name in self.json_path:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def _child(array: pa.Array, name: str) -> pa.Array:
    # Its import takes longer than all else that checks of most jobs need of Arrow.
    import pyarrow.compute as pc

    return pc.struct_field(array, name)


def field_of(name: str, schema: pa.Schema, key: str) -> Field:
    """The column of that name, else the field at that dotted path.

    Args:
        key: of the job file, for the error.

    Raises:
        InputError: there is no such column or field.
    """
    parts = name.split(".")
    for stop in range(len(parts), 0, -1):
        column = ".".join(parts[:stop])
        if column in schema.names:
            return _within(column, parts[stop:], bare(schema.field(column).type), key)
    raise InputError(f"{key}: no column '{name}' in the input; it has {', '.join(schema.names)}")


def _within(column: str, rest: Sequence[str], kind: pa.DataType, key: str) -> Field:
    path: list[str] = []
    for number, name in enumerate(rest):
        if is_text(kind):
            return Field(column, tuple(path), tuple(rest[number:]), kind)
        place = ".".join([column, *path])
        if not pa.types.is_struct(kind):
            raise InputError(f"{key}: '{place}' is {kind} and has no field '{name}'; only structs and JSON text have")
        names = [field.name for field in kind.fields]
        if name not in names:
            raise InputError(f"{key}: no field '{name}' in '{place}'; it has {', '.join(names)}")
        path.append(name)
        kind = bare(kind.field(name).type)
    return Field(column, tuple(path), (), kind)


def _values(column: pa.Array) -> Iterable[Any]:
    # Readers of parquet do not check text, so that one bad byte makes the whole column undecodable.
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]
    return values


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return BadPrompt("bad_text", f"not valid UTF-8: {error.reason} at byte {error.start}")
