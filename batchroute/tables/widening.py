"""Widening: the one type that holds all values of two types, where there is one."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from batchroute.tables.types import bare, is_bytes, is_list, is_text

_UTC = {"utc", "etc/utc", "gmt", "etc/gmt", "z", "zulu", "+00:00", "-00:00", "+0000", "+00"}
_UNITS = ("s", "ms", "us", "ns")
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}
"""Decimal digits of integers, by their bits."""


def wider(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both; None where each would lose or change some.

    Two pairs hold all values only as a rule: `is_certain` tells which.
    """
    if left == right or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    left, right = bare(left), bare(right)
    return left if left == right else next((kind for rule in _RULES if (kind := rule(left, right)) is not None), None)


def is_certain(kind: pa.DataType, wide: pa.DataType) -> bool:
    """Whether every value of `kind` has a place in `wide`: not 64-bit integers in floats, nor years in nanoseconds."""
    kind, wide = bare(kind), bare(wide)
    if pa.types.is_integer(kind):
        return kind.bit_width < 64 or not pa.types.is_floating(wide)
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return bool(kind.unit == wide.unit)
    if pa.types.is_struct(kind) and pa.types.is_struct(wide):
        return all(is_certain(field.type, wide.field(field.name).type) for field in kind.fields)
    if pa.types.is_map(kind) and pa.types.is_map(wide):
        return is_certain(kind.key_type, wide.key_type) and is_certain(kind.item_type, wide.item_type)
    return not is_list(kind) or is_certain(kind.value_type, wide.value_type)


def _texts(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if not is_text(left) or not is_text(right):
        return None
    return pa.large_string() if pa.large_string() in (left, right) else pa.string()


def _bytes(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if not is_bytes(left) or not is_bytes(right):
        return None
    return pa.large_binary() if pa.large_binary() in (left, right) else pa.binary()


def _integers(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if not pa.types.is_integer(left) or not pa.types.is_integer(right):
        return None
    signed, other = (left, right) if pa.types.is_signed_integer(left) else (right, left)
    if pa.types.is_signed_integer(signed) == pa.types.is_signed_integer(other):
        return left if left.bit_width > right.bit_width else right
    bits = max(signed.bit_width, 2 * other.bit_width)
    return pa.decimal128(_DIGITS[64], 0) if bits > 64 else {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]


def _floats(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """Of a float and a float or an integer."""
    number, other = (left, right) if pa.types.is_floating(left) else (right, left)
    if not pa.types.is_floating(number):
        return None
    if pa.types.is_floating(other):
        return number if number.bit_width > other.bit_width else other
    if not pa.types.is_integer(other):
        return None
    return pa.float32() if other.bit_width <= 16 and number.bit_width <= 32 else pa.float64()


def _decimals(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """Of a decimal and a decimal or an integer."""
    if not pa.types.is_decimal(left) and not pa.types.is_decimal(right):
        return None
    digits = [_whole_and_scale(kind) for kind in (left, right)]
    if digits[0] is None or digits[1] is None:
        return None
    scale = max(digits[0][1], digits[1][1])
    precision = max(digits[0][0], digits[1][0]) + scale
    if precision > 76:
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _whole_and_scale(kind: pa.DataType) -> tuple[int, int] | None:
    if pa.types.is_integer(kind):
        return _DIGITS[kind.bit_width], 0
    return (kind.precision - kind.scale, kind.scale) if pa.types.is_decimal(kind) else None


def _times(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """The finer unit of two timestamps of one zone, two durations or two times of day."""
    if pa.types.is_timestamp(left) and pa.types.is_timestamp(right):
        zone = _zone(left.tz)
        return pa.timestamp(_finer(left, right), zone) if zone == _zone(right.tz) else None
    if pa.types.is_duration(left) and pa.types.is_duration(right):
        return pa.duration(_finer(left, right))
    if pa.types.is_time(left) and pa.types.is_time(right):
        unit = _finer(left, right)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    return None


def _finer(left: pa.DataType, right: pa.DataType) -> str:
    return _UNITS[max(_UNITS.index(left.unit), _UNITS.index(right.unit))]


def _zone(name: str | None) -> str | None:
    return "UTC" if name is not None and name.lower() in _UTC else name


def _lists(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if not is_list(left) or not is_list(right):
        return None
    field = _field(left.value_field, right.value_field)
    if field is None:
        return None
    both = (left, right)
    if all(map(pa.types.is_fixed_size_list, both)) and left.list_size == right.list_size:
        return pa.list_(field, left.list_size)
    large = any(pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind) for kind in both)
    return pa.large_list(field) if large else pa.list_(field)


def _structs(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """By name: a field that one of them lacks is null there."""
    if not pa.types.is_struct(left) or not pa.types.is_struct(right):
        return None
    ours, theirs = ({field.name: field for field in kind.fields} for kind in (left, right))
    if len(ours) < left.num_fields or len(theirs) < right.num_fields:
        return None
    fields = []
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        either = ours.get(name) or theirs[name]
        field = _field(ours[name], theirs[name]) if name in ours and name in theirs else either.with_nullable(True)
        if field is None:
            return None
        fields.append(field)
    return pa.struct(fields)


def _maps(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if not pa.types.is_map(left) or not pa.types.is_map(right):
        return None
    key, item = _field(left.key_field, right.key_field), _field(left.item_field, right.item_field)
    return None if key is None or item is None else pa.map_(key, item)


def _field(left: pa.Field, right: pa.Field) -> pa.Field | None:
    kind = wider(left.type, right.type)
    return None if kind is None else pa.field(left.name, kind, left.nullable or right.nullable)


_RULES: tuple[Callable[[pa.DataType, pa.DataType], pa.DataType | None], ...] = (
    _texts,
    _bytes,
    _integers,
    _floats,
    _decimals,
    _times,
    _lists,
    _structs,
    _maps,
)
