"""Which of Arrow's types can be assigned to Snowflake's."""

from __future__ import annotations

import re

import pyarrow as pa

from batchroute.tables.targets.columns import Holds

HOLDS = Holds(lists=False, nested=False)
_KINDS = {
    pa.string(): "VARCHAR",
    pa.binary(): "BINARY",
    pa.bool_(): "BOOLEAN",
    pa.float32(): "FLOAT",
    pa.float64(): "FLOAT",
    pa.date32(): "DATE",
    pa.time64("us"): "TIME",
    pa.timestamp("us"): "TIMESTAMP_NTZ",
    pa.timestamp("us", "UTC"): "TIMESTAMP_LTZ",
}
_WHOLE = "NUMBER(38,0)"
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 19}
_EXACT_DIGITS, _MICROSECONDS = 15, 6
# As DESCRIBE TABLE writes types.
_THEIRS = re.compile(r"([A-Z_]+)(?:\((\d+)(?:,\s*(\d+))?\))?")
_AS_IT_IS = ("{0}", True)


def kind_of(ours: pa.DataType) -> str:
    """The type of a column that is made for values of a type that `HOLDS` gives."""
    if pa.types.is_decimal(ours):
        return f"NUMBER({ours.precision},{ours.scale})"
    return _WHOLE if pa.types.is_integer(ours) else _KINDS[ours]


def assigned(original: pa.DataType, ours: pa.DataType, theirs: str) -> tuple[str, bool] | None:
    """As `relation.assigned`. Nothing is cast that is assigned as it is: a cast to a shorter text would cut it, where
    an assignment is refused.

    Args:
        original: the type in the answers, before `HOLDS`.
        theirs: as DESCRIBE TABLE has it: `NUMBER(10,2)`, `VARCHAR(16777216)`.
    """
    found = _THEIRS.match(theirs.upper())
    if found is None:
        return None
    base, size, scale = found[1], found[2], int(found[3] or 0)
    if base == "VARIANT":
        return ("parse_json({0})", False) if _is_json(original) and pa.types.is_string(ours) else None
    if pa.types.is_integer(ours) or pa.types.is_decimal(ours):
        places = ours.scale if pa.types.is_decimal(ours) else 0
        digits = ours.precision if pa.types.is_decimal(ours) else _DIGITS[ours.bit_width]
        if base == "FLOAT":
            return _AS_IT_IS if digits <= _EXACT_DIGITS else None
        fits = base == "NUMBER" and scale >= places and int(size or 38) - scale >= digits - places
        return _AS_IT_IS if fits else None
    if pa.types.is_temporal(ours) and size is not None and int(size) < _MICROSECONDS and base != "DATE":
        return None
    if pa.types.is_timestamp(ours) and ours.tz:
        return _AS_IT_IS if base in ("TIMESTAMP_LTZ", "TIMESTAMP_TZ") else None
    if pa.types.is_date(ours) and base == "TIMESTAMP_NTZ":
        return _AS_IT_IS
    return _AS_IT_IS if base == kind_of(ours) or (base, kind_of(ours)) == ("TEXT", "VARCHAR") else None


def rounded(original: pa.DataType, theirs: str, is_cost: bool) -> tuple[str, bool] | None:
    """As `relation.rounded`: only costs, since shorter decimals are assigned as they are."""
    is_double = pa.types.is_decimal(original) and theirs.upper() == "FLOAT"
    return ("cast({0} as float)", False) if is_double and is_cost else None


def _is_json(original: pa.DataType) -> bool:
    return pa.types.is_nested(original) or isinstance(original, pa.JsonType)
