"""The table of a warehouse as its catalog describes it, and which of Arrow's types can be assigned to its columns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.tables.queries import literal, quoted

# One name for each type, of PostgreSQL and DuckDB.
_NAMES = {
    "varchar": "text", "character varying": "text", "character": "text", "string": "text", "bpchar": "text",
    "double": "double precision", "float": "real", "decimal": "numeric", "blob": "bytea",
    "timestamp": "timestamp without time zone", "time": "time without time zone",
}  # fmt: skip
_INTEGERS = {"smallint": 16, "integer": 32, "bigint": 64, "hugeint": 128}
_DIGITS = {16: 5, 32: 10, 64: 19}
# Of a decimal, which a double gives back.
_EXACT_DIGITS = 15
_EXACT = {
    pa.string(): "text",
    pa.binary(): "bytea",
    pa.bool_(): "boolean",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.date32(): "date",
    pa.time64("us"): "time without time zone",
    pa.timestamp("us"): "timestamp without time zone",
    pa.timestamp("us", "UTC"): "timestamp with time zone",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
}
# Not of text, which may be anything: these would read a part of the texts, or change them.
_NOT_OF_TEXT = {"boolean", "bytea", "real", "double precision", "date", *_INTEGERS}
_KIND = re.compile(r"([a-z_\" .]+?)\s*(?:\((\d+)(?:,\s*(\d+))?\))?( with(?:out)? time zone)?((?:\[\d*\])*)$")
_SQLITE_TEXTS = re.compile("CHAR|CLOB|TEXT", re.IGNORECASE)
_SQLITE_NUMBERS = re.compile("INT|REAL|FLOA|DOUB|NUMERIC|DECIMAL", re.IGNORECASE)

_POSTGRESQL = """select a.attname, case when t.typbasetype = 0 then format_type(a.atttypid, a.atttypmod)
else format_type(t.typbasetype, t.typtypmod) end, a.attnotnull and not a.atthasdef and a.attidentity = '',
a.attgenerated = '' and a.attidentity <> 'a', c.relkind in ('v', 'm')
from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_type t on t.oid = a.atttypid
where a.attrelid = to_regclass({table}) and a.attnum > 0 and not a.attisdropped order by a.attnum"""
_SQLITE = """select i.name, i.type, i."notnull" and i.dflt_value is null and not (i.pk and upper(i.type) = 'INTEGER'),
i.hidden not in (2, 3), m.type = 'view' from pragma_table_xinfo({name}) as i join sqlite_master as m
on lower(m.name) = lower({name}) and m.type in ('table', 'view') where i.hidden <> 1 order by i.cid"""
_DUCKDB = """select c.column_name, c.data_type, not c.is_nullable and c.column_default is null, not c.is_generated,
c.table_name in (select view_name from duckdb_views() where not internal) from duckdb_columns() as c
where lower(c.table_name) = lower({name}) and c.schema_name = {schema} and c.database_name in
(current_database(), 'temp') order by c.column_index"""


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    kind: str
    """Its type, in the words of the warehouse."""
    is_required: bool
    """Whether a row needs a value: no nulls, and no default."""
    is_writable: bool


def columns_of(scheme: str, cursor: Any, schema: str | None, name: str, public: str) -> list[Column]:
    """The columns, from the catalog; none where there is no such table.

    Args:
        scheme: the driver: postgresql, sqlite or duckdb.
        public: the table, as messages name it.

    Raises:
        InputError: it is a view.
    """
    table = ".".join(quoted(part) for part in (schema, name) if part)
    places = {"table": literal(table), "name": literal(name), "schema": literal(schema or "main")}
    cursor.execute({"postgresql": _POSTGRESQL, "sqlite": _SQLITE, "duckdb": _DUCKDB}[scheme].format(**places))
    rows = cursor.fetchall()
    if any(row[4] for row in rows):
        raise InputError(f"output.table: {public} is a view, which is not loaded: name the table behind it")
    return [Column(row[0], str(row[1]), bool(row[2]), bool(row[3])) for row in rows]


def assigned(scheme: str, ours: pa.DataType, theirs: str) -> tuple[str, bool] | None:
    """How values of a type get into a column: SQL, in which `{0}` stands for the value, and whether the types are
    equal. None where some of the values would change or be refused for their type.

    Args:
        ours: a type that `Holds` gives.
        theirs: the column's type, as the catalog has it.
    """
    if scheme == "sqlite":
        # Its columns take any value, but turn texts into numbers, and numbers into texts.
        is_number = pa.types.is_integer(ours) or pa.types.is_floating(ours) or pa.types.is_boolean(ours)
        turned = _SQLITE_NUMBERS if pa.types.is_string(ours) else _SQLITE_TEXTS if is_number else None
        return None if turned and turned.search(theirs) else ("{0}", True)
    cast = ("cast({0} as " + theirs + ")", False)
    found = _KIND.match(theirs.lower())
    if found is None:
        return cast if pa.types.is_string(ours) else None
    base, precision, scale, zone, dimensions = found.groups()
    name = f"{base}{zone}" if zone else _NAMES.get(base, base)
    if pa.types.is_list(ours):
        if name in ("json", "jsonb"):
            return (f"to_json({{0}})::{name}", False)
        element = assigned(scheme, ours.value_type, theirs[: theirs.rindex("[")]) if dimensions else None
        return None if element is None else ("{0}", True) if element[1] else cast
    if dimensions:
        return cast if pa.types.is_string(ours) and scheme == "postgresql" else None
    if zone is not None or pa.types.is_temporal(ours):
        same = _EXACT.get(ours) == name and (precision is None or int(precision) >= 6)
        return ("{0}", True) if same else cast if (ours, name) == (pa.date32(), _EXACT[pa.timestamp("us")]) else None
    if pa.types.is_decimal(ours):
        return _decimal(ours.precision, ours.scale, name, precision, scale, cast)
    if _EXACT.get(ours) == name:
        return ("{0}", True)
    if pa.types.is_integer(ours):
        if name in _INTEGERS:
            return cast if _INTEGERS[name] >= ours.bit_width else None
        if name in ("real", "double precision"):
            return cast if ours.bit_width <= {"real": 16}.get(name, 32) else None
        return _decimal(_DIGITS[ours.bit_width], 0, name, precision, scale, cast)
    if pa.types.is_floating(ours):
        if name == "numeric" and precision is None and scheme == "postgresql":
            return ("cast({0} as text)::numeric", False)  # a real as numeric has 6 digits
        return cast if name == "double precision" else None
    if not pa.types.is_string(ours) or name in _NOT_OF_TEXT:
        return None
    if name == "numeric" and precision is not None:
        # A cast would round in silence.
        is_whole = "{0}::numeric = {0}::" + theirs
        text = f"case when {is_whole} then {{0}} else 'more digits' end"
        return (f"({text})::{theirs}", False) if scheme == "postgresql" else None
    return ("cast({0} as bit varying)", False) if name == "bit" else cast


def rounded(scheme: str, ours: pa.DataType, theirs: str, is_cost: bool) -> str | None:
    """SQL for a decimal in a column of doubles, which `assigned` refuses: where the double gives all digits back, and
    of costs, whose exact sum is in the report. None elsewhere.

    Args:
        ours: the type in the answers.
    """
    if not pa.types.is_decimal(ours) or not (is_cost or ours.precision <= _EXACT_DIGITS):
        return None
    if scheme == "sqlite":
        return "{0}" if _SQLITE_NUMBERS.search(theirs) else None
    is_double = _NAMES.get(theirs.lower(), theirs.lower()) == "double precision"
    return "cast({0} as double precision)" if is_double else None


def _decimal(
    digits: int, decimals: int, name: str, precision: str | None, scale: str | None, cast: tuple[str, bool]
) -> tuple[str, bool] | None:
    if name == "double precision" and decimals and digits <= _EXACT_DIGITS:
        return cast
    if name != "numeric":
        return None
    if precision is None:
        return ("{0}", True) if decimals else cast
    places = int(scale or 0)
    if decimals and (places, int(precision)) == (decimals, digits):
        return ("{0}", True)
    return cast if places >= decimals and int(precision) - places >= digits - decimals else None
