"""Answers into tables that a team has already: fewer columns, other names, another order, other types."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbc_driver_duckdb.dbapi as duckdb
import adbc_driver_postgresql.dbapi as postgresql
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Field, Schema
from deltalake import schema as delta

from batchroute.commands.validate import validate
from batchroute.errors import InputError
from tests.support.jobs import JobFolder, table
from tests.support.postgres import execute, postgres

UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres(tmp_path_factory.mktemp("pg")) as uri:
        yield uri


@pytest.fixture
def database(server: str) -> str:
    execute(server, "drop schema public cascade", "create schema public")
    return server


@pytest.fixture(params=["postgresql", "sqlite", "duckdb"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, database: str) -> str:
    return database if request.param == "postgresql" else f"{request.param}://{tmp_path}/a.db"


def sql(uri: str, *statements: str) -> list[tuple[Any, ...]]:
    """The rows of the last statement, if it has any."""
    scheme, _, path = uri.partition("://")
    if scheme == "sqlite":
        with sqlite3.connect(path) as lite:
            rows = [lite.execute(statement).fetchall() for statement in statements]
        lite.close()
        return rows[-1]
    driver = postgresql if scheme == "postgresql" else duckdb
    with driver.connect(uri if scheme == "postgresql" else path) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        rows = cursor.fetchall() if statements[-1].startswith("select") else []
        connection.commit()
    return rows


def night(folder: Path, uri: str, frame: pl.DataFrame, name: str = "one", **more: Any) -> JobFolder:
    (folder / name).mkdir()
    made = JobFolder(folder / name, frame, report={})
    made.settings["output"]["table"] = {"warehouse": uri, "name": "answers", **more}
    return made


def test_columns_go_by_name_in_any_order_and_others_are_left_out(uri: str, tmp_path: Path) -> None:
    sql(uri, "create table answers (response text, prompt text, extra text default 'none', ID text)")
    folder = night(tmp_path, uri, table(3))
    assert any("left out" in line and "score" in line for line in validate(folder.load()))
    folder.run()
    assert "has no column" in folder.log
    rows = sql(uri, "select ID, prompt, response, extra from answers order by 1")
    expected = folder.answers().sort("id").select("id", "prompt", "response", pl.lit("none")).rows()
    assert rows == expected


def test_columns_of_other_names(uri: str, tmp_path: Path) -> None:
    sql(uri, "create table answers (request text primary key, answer text, status integer default 7)")
    columns = {"request": "id", "answer": "response", "status": None}
    folder = night(tmp_path, uri, table(3), mode="upsert", columns=columns)
    folder.settings["input"]["only_new"] = {"by": "id"}
    folder.run()
    again = night(tmp_path, uri, table(5), "two", mode="upsert", columns=columns)
    again.settings["input"]["only_new"] = {"by": "id"}
    assert again.run().report.rows["total"] == 2
    rows = sql(uri, "select request, answer, status from answers order by 1")
    both = pl.concat([folder.answers(), again.answers()]).sort("id")
    assert rows == both.select("id", "response", pl.lit(7)).rows()


def test_a_new_table_has_the_names_of_the_job(uri: str, tmp_path: Path) -> None:
    columns = {"request": "id", "answer": "response", "score": None}
    for name, frame in (("one", table(2)), ("two", table(4).slice(2))):
        night(tmp_path, uri, frame, name, columns=columns).run()
    assert len(sql(uri, "select request, answer from answers")) == 4
    with pytest.raises(InputError, match=r"output\.table\.columns: .* has no column nope"):
        night(tmp_path, uri, table(2), "three", columns={"nope": "id"}).run()
    with pytest.raises(InputError, match=r"output\.table\.columns: the answers have no column nope"):
        night(tmp_path, uri, table(2), "four", columns={"request": "nope"}).run()


def test_types_of_a_first_night_fit_in_the_second(uri: str, tmp_path: Path) -> None:
    frame = table(4).with_columns(
        chat=pl.Series([[{"role": "user", "content": f"hello {i}"}] for i in range(4)]),
        tags=pl.Series([["a", None], [], None, ["b"]]),
        numbers=pl.Series([[1], [2, 3], [], None]),
        small=pl.lit(3, pl.UInt8),
        big=pl.lit(2**60, pl.UInt64),
        money=pl.lit("1.25").str.to_decimal(scale=2),
        at=pl.datetime(2026, 1, 2, time_zone="UTC"),
        then=pl.datetime(2026, 1, 2),
        day=pl.date(2026, 1, 2),
        time=pl.time(3, 4, 5),
        yes=pl.lit(True),
        raw=pl.lit(b"x"),
        half=pl.lit(0.5, pl.Float32),
        nothing=pl.lit(None),
    )
    for name, rows in (("one", frame.head(2)), ("two", frame.tail(2).select(sorted(frame.columns)))):
        night(tmp_path, uri, rows, name).run()
    assert sql(uri, "select id, small from answers order by id") == [(f"row-{i}", 3) for i in range(4)]


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["create table base (id text, response text)", "create view answers as select * from base"], "is a view"),
        (["create table answers (id text, response text, owner text not null)"], "needs a value for owner"),
        (["create table answers (id text, response text, error text not null)"], "error takes no nulls"),
        (["create table answers (id text, answer text)"], "no column for the responses"),
        (["create table answers (id integer, response text)"], "id is .* there and string here"),
    ],
)
def test_what_will_not_fit_is_known_before_the_night(
    uri: str, tmp_path: Path, statements: list[str], message: str
) -> None:
    sql(uri, *statements)
    folder = night(tmp_path, uri, table(2))
    for begin in (lambda: validate(folder.load()), folder.run):
        with pytest.raises(InputError, match=message):
            begin()
    assert not (folder.output / "manifest.json").exists()


def test_wider_types_of_postgresql(database: str, tmp_path: Path) -> None:
    columns = (
        "id uuid, prompt text, doc jsonb, price numeric(10, 2), feel mood, code varchar(8), tags text[], "
        "took interval, paid money, span int4range, n bigint, x double precision, at timestamptz, raw bit(3)"
    )
    results = "response text, status text, score double precision, cost numeric"
    execute(database, "create type mood as enum ('sad', 'glad')", f"create table answers ({columns}, {results})")
    given = (
        f"'{UUID}1'::uuid as id, 'hi there' as prompt, '{{\"a\": [1]}}'::jsonb as doc, 1.50::numeric(10, 2) as price, "
        "'glad'::mood as feel, 'x' as code, array['a', null] as tags, interval '1 day' as took, "
        "'12.50'::money as paid, int4range(1, 5) as span, 3::int as n, 0.5::real as x, now() as at, bit '101' as raw"
    )
    execute(database, f"create table p as select {given}")
    for name, left in (("one", 1), ("two", 0)):
        folder = night(tmp_path, database, table(1), name)
        folder.settings["input"] = {"warehouse": database, "query": "select * from p", "id": "id", "prompt": "prompt"}
        folder.settings["input"]["only_new"] = {"by": "id"}
        assert folder.run().report.rows["total"] == left
    names = [column.split()[0] for column in columns.replace("(10, 2)", "").split(", ")]
    same = " and ".join(f"a.{name} = p.{name}" for name in names)
    assert sql(database, f"select count(*) from answers a join p on {same}") == [(1,)]


def test_a_table_that_a_run_creates_has_the_types_of_the_query(database: str, tmp_path: Path) -> None:
    given = "'hi there' as prompt, '{\"b\": 1, \"a\": 2}'::jsonb as doc, '{\"b\":1}'::json as raw"
    for name in ("one", "two"):
        folder = night(tmp_path, database, table(1), name)
        query = f"select gen_random_uuid() as id, {given}"
        folder.settings["input"] = {"warehouse": database, "query": query, "id": "id", "prompt": "prompt"}
        folder.run()
    kinds = "select column_name, data_type from information_schema.columns where table_name = 'answers' limit 4"
    assert dict(sql(database, kinds)) == {"id": "uuid", "prompt": "text", "doc": "jsonb", "raw": "json"}
    assert sql(database, "select count(*), sum((doc->>'a')::int), min(raw::text) from answers") == [(2, 4, '{"b":1}')]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("id text, n integer", "n is int32 there and int64 here"),
        ("id text, n real", "n is float there and int64 here"),
        ("id text, cost numeric(12, 6)", r"cost is numeric\(12,6\) there and decimal128\(20, 12\) here"),
        ("id bigint generated always as identity", "id is "),
        ("id text generated always as ('x') stored", "id is generated there"),
    ],
)
def test_narrower_types_of_postgresql_are_refused(database: str, tmp_path: Path, columns: str, message: str) -> None:
    execute(database, f"create table answers ({columns}, response text)")
    folder = night(tmp_path, database, table(2).with_columns(n=pl.lit(2**40)))
    with pytest.raises(InputError, match=message):
        folder.run()


def test_a_numeric_is_not_rounded_in_silence(database: str, tmp_path: Path) -> None:
    execute(database, "create table answers (id text, price numeric(10, 1), response text)")
    folder = night(tmp_path, database, table(1).with_columns(price=pl.lit("1.25")))
    with pytest.raises(InputError, match="22P02"):
        folder.run()


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_lake_that_is_there_already(kind: str, tmp_path: Path) -> None:
    schema = pa.schema([("answer", pa.string()), ("score", pa.float64()), ("id", pa.string()), ("extra", pa.int32())])
    spec: dict[str, Any] = {"columns": {"answer": "response"}}
    if kind == "delta":
        spec["delta"] = str(tmp_path / "t")
        DeltaTable.create(str(tmp_path / "t"), schema)
    else:
        from pyiceberg.catalog import load_catalog

        (tmp_path / "lake").mkdir()
        place = {"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}/lake"}
        spec |= {"iceberg": "n.t", "catalog": place}
        catalog = load_catalog("default", **place)
        catalog.create_namespace("n")
        catalog.create_table("n.t", schema=schema)
    for name, stop, new in (("one", 3, 3), ("two", 5, 2)):
        (tmp_path / name).mkdir()
        folder = JobFolder(tmp_path / name, table(stop), report={})
        folder.settings["output"]["table"] = spec
        folder.settings["input"]["only_new"] = {"by": "id"}
        assert any("left out" in line for line in validate(folder.load()))
        assert folder.run().report.rows["total"] == new
    found: Any = (
        DeltaTable(spec["delta"]).to_pyarrow_table() if kind == "delta" else catalog.load_table("n.t").scan().to_arrow()
    )
    loaded = pl.DataFrame(pl.from_arrow(found)).sort("id")
    assert loaded.columns == schema.names
    assert loaded["id"].to_list() == [f"row-{i}" for i in range(5)]
    assert loaded["answer"].null_count() == 0


def test_a_column_that_a_delta_table_needs(tmp_path: Path) -> None:
    fields = [Field("id", delta.PrimitiveType("string")), Field("response", delta.PrimitiveType("string"))]
    DeltaTable.create(
        str(tmp_path / "t"), Schema([*fields, Field("owner", delta.PrimitiveType("string"), nullable=False)])
    )
    folder = JobFolder(tmp_path, table(2), report={})
    folder.settings["output"]["table"] = {"delta": str(tmp_path / "t")}
    with pytest.raises(InputError, match="it needs a value for owner"):
        folder.run()


def test_a_unique_key_is_asked_before_the_night(uri: str, tmp_path: Path) -> None:
    sql(uri, "create table answers (id text primary key, team text unique, response text)")
    repeats = night(tmp_path, uri, table(6))
    message = r"one value of its unique key .* \(team\), and the input repeats 2 ids: 'search' in"
    for begin in (lambda: validate(repeats.load()), repeats.run):
        with pytest.raises(InputError, match=message):
            begin()
    sql(uri, "insert into answers values ('row-1', null, 'x')")
    held = night(tmp_path, uri, table(3), "two")
    for begin in (lambda: validate(held.load()), held.run):
        with pytest.raises(
            InputError, match=r"\(id\), and has that of the row 'row-1' in in\.parquet, row 1: set output"
        ):
            begin()
    assert not (held.output / "data").exists()
    for name, mode in (("three", "replace"), ("four", "upsert")):
        night(tmp_path, uri, table(3), name, mode=mode).run()
    assert sql(uri, "select id from answers order by 1") == [(f"row-{i}",) for i in range(3)]


def test_what_only_the_load_shows_is_named(uri: str, tmp_path: Path) -> None:
    checks = "check (length(id) > 2), unique (id, team), unique (response)"
    sql(uri, f"create table answers (id text, team text, response text, n int unique, {checks})")
    sql(uri, "create unique index ids on answers (lower(id))")
    folder = night(tmp_path, uri, table(2))
    (line,) = (line for line in validate(folder.load()) if "constraints" in line)
    assert "only the load shows" in line
    for words in ("check ", "(response)", "(id, team), against the rows that are there", "unique key ids"):
        assert words in line
    assert "(n)" not in line  # nothing goes into it
    folder.run()
    assert "only the load shows" in folder.log


def test_numbers_keep_their_digits(uri: str, tmp_path: Path) -> None:
    wide, small = "1234567890123456789012345678901234567890.12", "12345678901234567.89"
    frame = table(1).with_columns(big=pl.lit(2**64 - 1, pl.UInt64))
    folder = night(tmp_path, uri, frame)
    rows = pq.read_table(folder.input)
    for name, text, kind in (("wide", wide, pa.decimal256(45, 2)), ("small", small, pa.decimal128(20, 2))):
        rows = rows.append_column(name, pa.array([text]).cast(kind))
    pq.write_table(rows, folder.input)
    folder.run()
    (found,) = sql(uri, "select cast(wide as varchar), cast(small as varchar), cast(big as varchar) from answers")
    assert found == (wide, small, str(2**64 - 1))
    as_text = {"postgresql": "", "sqlite": "big, wide, small, cost", "duckdb": "wide"}[uri.partition(":")[0]]
    assert ("become text" in folder.log) == bool(as_text)
    assert f"{as_text} become text" in folder.log or not as_text


def test_a_value_that_would_change_is_refused_before_the_night(uri: str, tmp_path: Path) -> None:
    folder = night(tmp_path, uri, table(2).with_columns(at=pl.lit(1_001).cast(pl.Datetime("ns"))))
    for begin in (lambda: validate(folder.load()), folder.run):
        with pytest.raises(InputError, match=r"near in\.parquet, row 0, column 'at' is timestamp\[ns\]"):
            begin()
    kept = night(tmp_path, uri, table(2).with_columns(at=pl.lit(1_000).cast(pl.Datetime("ns"))), "two")
    kept.run()


def test_costs_as_doubles_are_named(uri: str, tmp_path: Path) -> None:
    kind = "real" if uri.startswith("sqlite") else "double precision"
    sql(uri, f"create table answers (id text, price {kind}, cost {kind}, response text)")
    frame = table(2).with_columns(price=pl.lit("1.25").str.to_decimal(scale=2).cast(pl.Decimal(12, 2)))
    folder = night(tmp_path, uri, frame)
    folder.run()
    assert "costs are rounded to 15 digits" in folder.log
    assert sql(uri, "select price from answers") == [(1.25,), (1.25,)]
    long = night(tmp_path, uri, frame.with_columns(pl.col("price").cast(pl.Decimal(30, 2))), "two")
    with pytest.raises(InputError, match="price is"):
        long.run()
