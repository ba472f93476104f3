"""The tables of jobs/README.md that say which types are accepted, made by whole jobs:

python -m tests.jobs.accepted    writes both tables into jobs/README.md
"""

from __future__ import annotations

import datetime
import decimal
import json
import re
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyiceberg.catalog import load_catalog

from batchroute.tables.warehouse import Warehouse
from tests.support.jobs import JobFolder
from tests.support.postgres import postgres

PAGE = Path(__file__).parents[2] / "jobs" / "README.md"
_NOW = datetime.datetime(2026, 11, 29, 12, 30, 15, 123456)
_UTC = _NOW.replace(tzinfo=datetime.UTC)

# A column of each type, with a value.
ARROW: dict[str, pa.Array] = {
    "text (also large, view, dictionary)": pa.array(["text"], pa.string_view()),
    "boolean": pa.array([True]),
    "int8": pa.array([1], pa.int8()),
    "int16": pa.array([1], pa.int16()),
    "int32": pa.array([1], pa.int32()),
    "int64": pa.array([1], pa.int64()),
    "uint64": pa.array([1], pa.uint64()),
    "float32": pa.array([1.5], pa.float32()),
    "float64": pa.array([1.5], pa.float64()),
    "decimal128(20, 4)": pa.array([decimal.Decimal("1.2345")], pa.decimal128(20, 4)),
    "decimal256(50, 4)": pa.array([decimal.Decimal("1.2345")], pa.decimal256(50, 4)),
    "date32": pa.array([_NOW.date()]),
    "time64[us]": pa.array([_NOW.time()]),
    "timestamp[us]": pa.array([_NOW], pa.timestamp("us")),
    "timestamp[us, UTC]": pa.array([_UTC], pa.timestamp("us", "UTC")),
    "duration[us]": pa.array([datetime.timedelta(hours=1)]),
    "binary": pa.array([b"\x00\x01"]),
    "UUID": pa.array([bytes(range(16))], pa.uuid()),
    "JSON": pa.array(['{"a": 1}'], pa.json_()),
    "list of text": pa.array([["a"]]),
    "list of struct": pa.array([[{"a": 1}]]),
    "struct": pa.array([{"a": 1}]),
    "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    "null": pa.array([None]),
}

# A value of each type of a warehouse, in its SQL.
SQL: dict[str, list[str]] = {
    "postgresql": [
        "'a'::text", "'a'::varchar(5)", "true::boolean", "1::smallint", "1::integer", "1::bigint", "1.5::real",
        "1.5::double precision", "1.25::numeric(12,2)", "'2026-11-29'::date", "'12:30'::time",
        "'2026-11-29 12:30'::timestamp", "'2026-11-29 12:30Z'::timestamptz", "'1 day'::interval", "'ab'::bytea",
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", "'{\"a\": 1}'::json", "'{\"a\": 1}'::jsonb", "'{a,b}'::text[]",
        "'{1,2}'::integer[]", "'1.50'::money", "'10.0.0.1'::inet", "'[1,5)'::int4range", "'(1,2)'::point",
        "B'101'::bit(3)", "'a & b'::tsquery",
    ],
    "duckdb": [
        "'a'::varchar", "true::boolean", "1::tinyint", "1::integer", "1::bigint", "1::ubigint", "1::hugeint",
        "1.5::float", "1.5::double", "1.25::decimal(12,2)", "'2026-11-29'::date", "'12:30'::time",
        "'2026-11-29 12:30'::timestamp", "'2026-11-29 12:30Z'::timestamptz", "interval '1 day'::interval", "'ab'::blob",
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", "'{\"a\": 1}'::json", "['a','b']::varchar[]",
        "{'a': 1}::struct(a integer)", "map {'a': 1}::map(varchar, integer)", "'b'::enum('a', 'b')", "'101'::bit",
    ],
    "sqlite": ["'a'::text", "1::integer", "1.5::real", "x'00'::blob", "null::null"],
}  # fmt: skip


TARGETS = ("PostgreSQL", "SQLite", "DuckDB", "Delta", "Iceberg")


def sources(folder: Path, server: str) -> str:
    """Each type of a warehouse, and the type that it has in the input and in the answers."""
    lines = ["| warehouse | its type | here |", "|---|---|---|"]
    uris = {"postgresql": server, "duckdb": "duckdb://", "sqlite": f"sqlite://{folder}/source.db"}
    sqlite3.connect(folder / "source.db").close()
    for kind, values in SQL.items():
        here: dict[str, list[str]] = {}
        for value in values:
            literal, _, name = value.rpartition("::")
            query = f"select {literal if kind == 'sqlite' else value} as x"
            here.setdefault(_shown(Warehouse(uris[kind]).schema(query).field("x").type), []).append(f"`{name}`")
        lines += [f"| {kind} | {', '.join(names)} | {there} |" for there, names in here.items()]
    return "\n".join(lines)


def targets(folder: Path, server: str) -> str:
    """Each type of an input, and the type of the column that a load creates for it."""
    columns = [_column_types(place, folder, server) for place in ("files", *TARGETS)]
    lines = [f"| in the input | in the answers' files | {' | '.join(TARGETS)} |", f"|{'---|' * (2 + len(TARGETS))}"]
    lines += [f"| {' | '.join([name, *types])} |" for name, *types in zip(ARROW, *columns, strict=True)]
    return "\n".join(lines)


def _column_types(place: str, folder: Path, server: str) -> list[str]:
    """The types of the columns of `ARROW`, in their order, after a whole job."""
    job = JobFolder(folder / place, report={})
    names = [f"c{number}" for number in range(len(ARROW))]
    row = {"id": pa.array(["r"]), "prompt": pa.array(["hello there"])}
    pq.write_table(pa.table({**row, **dict(zip(names, ARROW.values(), strict=True))}), job.input)
    table = _table(place, folder, server)
    if table is not None:
        job.settings["output"]["table"] = table
    job.run()
    if table is None:
        (part,) = (job.output / "data").glob("*.parquet")
        return [_shown(pq.read_schema(part).field(name).type) for name in names]
    if place == "Delta":
        schema = json.loads(DeltaTable(table["delta"]).schema().to_json())
        kinds = {field["name"]: _of_delta(field["type"]) for field in schema["fields"]}
    elif place == "Iceberg":
        fields = load_catalog("default", **table["catalog"]).load_table(table["iceberg"]).schema().fields
        kinds = {field.name: _of_iceberg(str(field.field_type)) for field in fields}
    else:
        with Warehouse(table["warehouse"]).query(_CATALOGS[place]) as reader:
            kinds = {str(name): str(kind or "any").lower() for name, kind in _pairs(reader.read_all())}
    return [f"`{kinds[name]}`" for name in names]


def _table(place: str, folder: Path, server: str) -> dict[str, Any] | None:
    """The setting `output.table`."""
    if place in ("PostgreSQL", "SQLite", "DuckDB"):
        uri = server if place == "PostgreSQL" else f"{place.lower()}://{folder}/{place}.db"
        return {"warehouse": uri, "name": "answers"}
    if place == "Delta":
        return {"delta": str(folder / "delta")}
    if place == "Iceberg":
        catalog = {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/lake"}
        return {"iceberg": "nights.answers", "catalog": catalog}
    return None


_CATALOGS = {
    "PostgreSQL": "select column_name, case data_type when 'ARRAY' then substr(udt_name, 2) || '[]' else data_type end "
    "from information_schema.columns where table_name = 'answers'",
    "SQLite": "select name, type from pragma_table_info('answers')",
    "DuckDB": "select column_name, data_type from information_schema.columns where table_name = 'answers'",
}


def _pairs(table: pa.Table) -> list[tuple[Any, Any]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _of_delta(kind: Any) -> str:
    if not isinstance(kind, dict):
        return str(kind)
    if kind["type"] == "array":
        return f"array<{_of_delta(kind['elementType'])}>"
    if kind["type"] == "map":
        return f"map<{_of_delta(kind['keyType'])}, {_of_delta(kind['valueType'])}>"
    return f"struct<{', '.join(field['name'] + ': ' + _of_delta(field['type']) for field in kind['fields'])}>"


def _of_iceberg(kind: str) -> str:
    return re.sub(r"\d+: |optional |required ", "", kind)


def _shown(kind: pa.DataType) -> str:
    """A type without the names that a reader or a writer gives to the parts of a list or a map."""
    shown = re.sub(r"<(?:item|element|l|key|value): ", "<", re.sub(r" \('\w+'\)", "", str(kind)))
    shown = re.sub(r"extension<arrow\.(\w+)>", r"\1", shown)
    shown = re.sub(r"dictionary<values=(\w+).*>", r"dictionary<\1>", shown)
    return f"`{shown}`"


def tables() -> list[str]:
    """Both tables, in Markdown."""
    with tempfile.TemporaryDirectory() as name, postgres(Path(name) / "pg") as server:
        for place in ("files", *TARGETS):
            (Path(name) / place).mkdir()
        return [sources(Path(name), server), targets(Path(name), server)]


def main() -> None:
    """Replace the tables of the page, which are known by their first lines."""
    page = PAGE.read_text()
    for table in tables():
        start = page.index(table.partition("\n")[0])
        page = page[:start] + table + page[page.index("\n\n", start) :]
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
