"""Which types a target holds, and columns converted to them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchroute.errors import InputError
from batchroute.tables.types import is_text

_DIGITS_64, _DIGITS_128 = 20, 38


@dataclass(frozen=True)
class Holds:
    """Which of Arrow's types a kind of table holds. Columns of other types become the nearest type, or JSON text."""

    lists: bool = True
    nested: bool = True
    digits: int = 38
    """Of decimals; those of more digits are text."""
    nan: bool = True
    times: bool = True
    small_integers: bool = True
    zero_characters: bool = True
    """Within text."""

    def schema(self, schema: pa.Schema) -> pa.Schema:
        return pa.schema([(field.name, self._type(field.type)) for field in schema])

    def batch(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """
        Args:
            schema: what `schema` made of the batch's schema.
        """
        columns = [self._fit(column, kind) for column, kind in zip(batch.columns, schema.types, strict=True)]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def doubtful(self, schema: pa.Schema) -> list[str]:
        """The columns of which some values have no place, such as nanoseconds where the table has microseconds."""
        return [field.name for field in schema if self._is_doubtful(field.type)]

    def _is_doubtful(self, kind: pa.DataType) -> bool:
        if pa.types.is_nested(kind):
            return any(self._is_doubtful(kind.field(number).type) for number in range(kind.num_fields))
        if pa.types.is_floating(kind):
            return not self.nan
        timed = pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_date64(kind)
        return bool(timed and kind != self._type(kind) and not pa.types.is_string(self._type(kind)))

    def check(self, batch: pa.RecordBatch) -> None:
        """Raises:
        InputError: a value has no place in the type of its column.
        """
        for field, column in zip(batch.schema, batch.columns, strict=True):
            kind = self._type(field.type)
            if not self.nan and pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
                raise InputError(f"column '{field.name}' has NaN, which would become null")
            try:
                self._fit(column, kind)
            except pa.ArrowInvalid as error:
                raise InputError(
                    f"column '{field.name}' is {field.type} and has a value that {kind} does not hold, the type of the "
                    "table's column; round it, or cast it to text"
                ) from error

    def as_text(self, schema: pa.Schema) -> list[str]:
        """The columns of numbers that become text, since the table has no type that holds all their digits."""
        return [
            field.name
            for field in schema
            if (pa.types.is_decimal(field.type) or field.type == pa.uint64())
            and pa.types.is_string(self._type(field.type))
        ]

    def _type(self, kind: pa.DataType) -> pa.DataType:
        if isinstance(kind, pa.BaseExtensionType):
            return pa.string() if isinstance(kind, pa.UuidType) else self._type(kind.storage_type)
        if pa.types.is_dictionary(kind):
            return self._type(kind.value_type)
        if is_text(kind) or pa.types.is_null(kind) or pa.types.is_duration(kind) or pa.types.is_interval(kind):
            return pa.string()
        if any(is_it(kind) for is_it in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)):
            return pa.binary()
        if pa.types.is_fixed_size_binary(kind):
            return pa.binary()
        if pa.types.is_integer(kind):
            return self._integer(kind)
        if pa.types.is_floating(kind):
            return pa.float32() if kind.bit_width < 64 else kind
        if pa.types.is_decimal(kind):
            return self._decimal(kind.precision - min(kind.scale, 0), max(kind.scale, 0))
        if pa.types.is_timestamp(kind):
            return pa.timestamp("us", "UTC" if kind.tz else None)
        if pa.types.is_date(kind):
            return pa.date32()
        if pa.types.is_time(kind):
            return pa.time64("us") if self.times else pa.string()
        return self._of_many(kind)

    def _integer(self, kind: pa.DataType) -> pa.DataType:
        if pa.types.is_unsigned_integer(kind):
            wider = {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}.get(kind.bit_width)
            if wider is None:
                return self._decimal(_DIGITS_64, 0)
            return self._integer(wider)
        least = 16 if self.small_integers else 32
        return kind if kind.bit_width >= least else {16: pa.int16(), 32: pa.int32()}[least]

    def _decimal(self, digits: int, places: int) -> pa.DataType:
        if digits > self.digits:
            return pa.string()
        return pa.decimal128(digits, places) if digits <= _DIGITS_128 else pa.decimal256(digits, places)

    def _of_many(self, kind: pa.DataType) -> pa.DataType:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            if self.lists and (self.nested or not pa.types.is_nested(kind.value_type)):
                return pa.list_(self._type(kind.value_type))
        elif pa.types.is_struct(kind) and self.nested and kind.num_fields:
            return pa.struct([(field.name, self._type(field.type)) for field in kind.fields])
        elif pa.types.is_boolean(kind):
            return kind
        return pa.string()

    def _fit(self, column: pa.Array, kind: pa.DataType) -> pa.Array:
        if isinstance(column.type, pa.BaseExtensionType) and not isinstance(column.type, pa.UuidType):
            column = column.storage
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if column.type != kind:
            column = _as_text(column) if pa.types.is_string(kind) else column.cast(kind)
        if pa.types.is_string(kind) and not self.zero_characters:
            column = pc.replace_substring(column, "\0", "\ufffd")
        return column


def _as_text(column: pa.Array) -> pa.Array:
    if is_text(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    if pa.types.is_decimal(column.type) or pa.types.is_integer(column.type):
        return column.cast(pa.string())
    if getattr(column.type, "unit", None) == "ns":
        return _nanoseconds_as_text(column)
    try:
        values = column.to_pylist()
    except ValueError as error:
        raise pa.ArrowInvalid("nested nanoseconds") from error
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _nanoseconds_as_text(column: pa.Array) -> pa.Array:
    """As Python writes microseconds, which it has, or with all digits where one value has more."""
    kind = pa.duration("us") if pa.types.is_duration(column.type) else pa.time64("us")
    try:
        return _as_text(column.cast(kind))
    except pa.ArrowInvalid:
        return (column.cast(pa.int64()) if pa.types.is_duration(column.type) else column).cast(pa.string())


def _text(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def differences(answers: pa.Schema, table: pa.Schema) -> tuple[list[str], list[str]]:
    """Why answers do not fit into a table: a sentence for each column whose type does not hold all values of ours, and
    the missing columns.
    """
    wrong, missing = [], []
    for field in answers:
        if field.name not in table.names:
            missing.append(field.name)
        elif not _is_held(field.type, table.field(field.name).type):
            there = kind_name(table.field(field.name).type)
            wrong.append(f"{field.name} is {there} there and {kind_name(field.type)} here")
    return wrong, missing


def _is_held(ours: pa.DataType, theirs: pa.DataType) -> bool:
    """Whether a type holds all values of another one as they are."""
    if ours == theirs or (is_text(ours) and is_text(theirs)):
        return True
    if pa.types.is_integer(ours) and pa.types.is_signed_integer(theirs):
        return bool(ours.bit_width <= theirs.bit_width)
    if pa.types.is_integer(ours) and pa.types.is_decimal(theirs):
        return bool(theirs.precision - theirs.scale >= {16: 5, 32: 10}.get(ours.bit_width, 19))
    if pa.types.is_decimal(ours) and pa.types.is_decimal(theirs):
        places = theirs.precision - theirs.scale >= ours.precision - ours.scale
        return bool(places and theirs.scale >= ours.scale)
    return bool(pa.types.is_floating(ours) and theirs == pa.float64())


def kind_name(kind: pa.DataType) -> str:
    return str(kind.type_name if isinstance(kind, pa.OpaqueType) else kind)
