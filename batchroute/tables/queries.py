"""Queries whose results the drivers can carry: the types of SQLite's columns, and casts of what Arrow cannot hold.

Each driver of ADBC gives some values as other values, without an error: PostgreSQL's money as an integer, the arrays of
an array as one array, infinite times as a year of the past. Such columns are cast to text by the query, and such values
are refused by the name of their column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchroute.errors import InputError
from batchroute.tables.types import POSTGRESQL_TYPE, holds

_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|(\$\w*\$).*?\1|--[^\n]*|/\*.*?\*/|\s+|[^'"$/\s;-]+|.""", re.S)
_FLAW = "batchroute_flaw"
# Julian day 0, before which PostgreSQL has no time; the drivers give infinite times as times before it, or as the last.
_FIRST_DAY = -2_440_588
_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000}
_LAST_TIME, _LAST_DAY, _MIDNIGHT = 2**63 - 1, 2**31 - 1, 86_400_000_000
# What DuckDB's driver gives as other values, or as bytes that only DuckDB reads.
_DUCKDB_AS_TEXT = re.compile(r"\b(?:INTERVAL|BIT|BIGNUM|VARINT|UHUGEINT|TIME WITH TIME ZONE|UNION)\b")
_SAMPLE = 1000
# The largest whole number of which a double has all below it.
_EXACT = 2**53
_SQLITE_CLASS = "case when typeof({0}) = 'integer' and {0} not between -{1} and {1} then 'long' else typeof({0}) end"
# A real as text: SQLite's own 15 digits where they give the number back.
_SQLITE_TEXT = (
    "case when typeof({0}) <> 'real' then cast({0} as text) when cast(cast({0} as text) as real) = {0} "
    "then cast({0} as text) else printf('%!.17g', {0}) end"
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def bare(query: str) -> str:
    """The query without the semicolons and comments that follow it, so that it can stand in parentheses."""
    end = 0
    for token in _TOKEN.finditer(query):
        if not token[0].isspace() and not token[0].startswith((";", "--", "/*")):
            end = token.end()
    return query[:end]


@dataclass(frozen=True)
class Statement:
    """A query as it is sent."""

    sql: str
    typing_rows: int = 0
    """Rows before those of the query, which only tell the driver the columns' types."""
    has_flaws: bool = False
    """Whether the last column holds the number of a column of which the driver cannot carry the row's value."""

    def columns(self) -> str:
        """The statement that gives the columns without the rows."""
        return f"select * from ({self.sql}\n) as batchroute_columns limit {self.typing_rows}"

    def read(self, reader: Any) -> pa.RecordBatchReader:
        """The rows of the query.

        Args:
            reader: the driver's rows of `sql`.

        Raises:
            InputError: a column, or a value of it while rows are read, is none that Arrow or a file can hold.
        """
        schema = reader.schema
        if self.has_flaws:
            schema = schema.remove(len(schema) - 1)
        for field in schema:
            if holds(field.type, _is_unwritable):
                raise InputError(f"column '{field.name}' of the query is {field.type}: cast it to text in the query")
        return pa.RecordBatchReader.from_batches(schema, self._rows(reader, schema))

    def _rows(self, reader: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        left = self.typing_rows
        for batch in reader:
            if self.has_flaws:
                _refuse_flaws(batch.columns[-1], schema)
                batch = pa.RecordBatch.from_arrays(batch.columns[:-1], schema=schema)
            dropped = min(left, batch.num_rows)
            left -= dropped
            batch = batch.slice(dropped)
            for name, column in zip(schema.names, batch.columns, strict=True):
                _refuse_endless(name, column)
            yield batch


def statement_of(scheme: str, cursor: Any, query: str, peek: bool = False) -> Statement:
    """The query as a statement whose result the driver carries unchanged.

    Args:
        scheme: the driver.
        query: as `bare` leaves it.
        peek: ask for no more than what the columns' types need.

    Raises:
        InputError: SQLite holds values in a column that have no type in common.
    """
    if scheme == "sqlite":
        return _of_sqlite(cursor, query, peek)
    if scheme == "postgresql":
        return _of_postgresql(query, cursor.adbc_execute_schema(query))
    if scheme == "duckdb":
        return _of_duckdb(cursor, query)
    return Statement(query)


def _of_postgresql(query: str, schema: pa.Schema) -> Statement:
    selected, flaws, columns = [], [], []
    for number, field in enumerate(schema):
        column = f"c{number}"
        columns.append(column)
        cast, value = _postgresql_cast(field), column
        if pa.types.is_list(field.type) or cast == "text[]":
            flawed = f"array_ndims({column}) > 1 or array_lower({column}, 1) not in (0, 1)"
            value = f"case when {flawed} then null else {column} end"
            flaws.append(f"when {flawed} then {number}")
        selected.append(f"({value}){f'::{cast}' if cast else ''} as {quoted(field.name)}")
    if not flaws and not any(_postgresql_cast(field) for field in schema):
        return Statement(query)
    if flaws:
        selected.append(f"case {' '.join(flaws)} end as {_FLAW}")
    sql = f"select {', '.join(selected)} from ({query}\n) as batchroute_query({', '.join(columns)})"
    return Statement(sql, has_flaws=bool(flaws))


def _postgresql_cast(field: pa.Field) -> str | None:
    name = (field.metadata or {}).get(POSTGRESQL_TYPE, b"").decode()
    kind = field.type
    if pa.types.is_list(kind):
        cast = _postgresql_cast(kind.value_field)
        return f"{cast}[]" if cast else None
    if name == "oid":
        return "bigint"
    if isinstance(kind, pa.OpaqueType) and name.startswith("_"):
        return "text[]"
    # A numeric as text has all its digits and `Infinity`.
    as_text = name == "money" or isinstance(kind, pa.OpaqueType) or pa.types.is_struct(kind) or _is_unwritable(kind)
    return "text" if as_text else None


def _of_duckdb(cursor: Any, query: str) -> Statement:
    cursor.execute(f"describe select * from ({query}\n)")
    described = [(name, kind) for name, kind, *_ in cursor.fetchall()]
    if not any(_DUCKDB_AS_TEXT.search(kind) for _, kind in described):
        return Statement(query)
    selected = [
        f"cast({quoted(name)} as varchar) as {quoted(name)}" if _DUCKDB_AS_TEXT.search(kind) else quoted(name)
        for name, kind in described
    ]
    return Statement(f"select {', '.join(selected)} from ({query}\n) as batchroute_query")


def _of_sqlite(cursor: Any, query: str, peek: bool) -> Statement:
    """The driver takes the types from the first rows, and that of a column without values for an integer. So the types
    of all rows are asked for first, in the same transaction, and the first row is one that has these types.
    """
    cursor.execute(f"create temp view batchroute_query as {query}")
    cursor.execute("select name, type from pragma_table_info('batchroute_query')")
    declared = cursor.fetchall()
    asked = [f"group_concat(distinct {_SQLITE_CLASS.format(quoted(name), _EXACT)})" for name, _ in declared]
    rows = f"(select * from batchroute_query limit {_SAMPLE})" if peek else "batchroute_query"
    cursor.execute(f"select {', '.join(asked)} from {rows}")
    classes = [set((found or "").split(",")) - {"", "null"} for found in cursor.fetchone()]
    firsts, values = [], []
    for (name, kind), held in zip(declared, classes, strict=True):
        first, value = _sqlite_type(name, kind, held)
        firsts.append(f"{first} as {quoted(name)}")
        values.append(f"{value.format(quoted(name))} as {quoted(name)}")
    typing = f"select {', '.join(firsts)} union all select {', '.join(values)} from batchroute_query"
    return Statement(typing, typing_rows=1)


def _sqlite_type(name: str, declared: str, held: set[str]) -> tuple[str, str]:
    """A literal of the column's type, and the column as a value of it; `{0}` stands for its name."""
    if not held:
        return _sqlite_literal(declared), "{0}"
    if held == {"blob"}:
        return "x''", "{0}"
    if "blob" in held:
        raise InputError(f"column '{name}' of the query holds blobs and other values: cast it in the query")
    if held <= {"integer", "long"}:
        return "0", "{0}"
    if held <= {"integer", "real"}:
        return "0.0", "cast({0} as real)"
    if held == {"text"}:
        return "''", "{0}"
    return "''", _SQLITE_TEXT


def _sqlite_literal(declared: str) -> str:
    """Of a column without values, by its declaration."""
    kind = declared.upper()
    if "INT" in kind or "BOOL" in kind:
        return "0"
    if any(word in kind for word in ("REAL", "FLOA", "DOUB", "DEC", "NUM")):
        return "0.0"
    # SQLite says BLOB of a column without a declaration too.
    return "''"


def _refuse_flaws(flaws: pa.Array, schema: pa.Schema) -> None:
    if flaws.null_count == len(flaws):
        return
    name = schema.field(pc.min(flaws).as_py()).name
    raise InputError(
        f"column '{name}' of the query holds an array of several dimensions, or one that does not begin at 1, which "
        f'the driver cannot carry: select to_jsonb("{name}") or "{name}"::text'
    )


def _refuse_endless(name: str, column: pa.Array) -> None:
    """Raises:
    InputError: a date or time is infinite, or out of Arrow's range.
    """
    while pa.types.is_list(column.type):
        column = column.flatten()
    kind = column.type
    if pa.types.is_timestamp(kind):
        first = _FIRST_DAY * _DAY[kind.unit] if kind.unit in _DAY else -(2**63) + 2
        last, numbers = _LAST_TIME, pa.int64()
    elif pa.types.is_date32(kind):
        first, last, numbers = _FIRST_DAY, _LAST_DAY, pa.int32()
    elif pa.types.is_time64(kind) and kind.unit == "us":
        first, last, numbers = 0, _MIDNIGHT, pa.int64()
    else:
        return
    extremes = pc.min_max(column.view(numbers))
    least, most = extremes["min"].as_py(), extremes["max"].as_py()
    if least is not None and (least < first or most >= last):
        what = "24:00" if last == _MIDNIGHT else "infinity"
        raise InputError(
            f"column '{name}' of the query holds {what}, or a value out of the range of {kind}: cast it to text in the "
            "query"
        )


def _is_unwritable(kind: pa.DataType) -> bool:
    return bool(pa.types.is_interval(kind) or pa.types.is_union(kind))
