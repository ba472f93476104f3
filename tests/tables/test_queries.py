"""Results of queries come out as they are in the database, or are refused by the name of the column."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchroute.errors import InputError
from batchroute.tables.queries import bare
from batchroute.tables.types import portable
from batchroute.tables.warehouse import Warehouse
from tests.support.postgres import execute, postgres


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres(tmp_path_factory.mktemp("pg")) as uri:
        execute(uri, "create type mood as enum ('sad', 'glad')", "create domain price as money")
        yield uri


def table(uri: str, query: str) -> pa.Table:
    """The rows, whose columns are those that are known before them."""
    warehouse = Warehouse(uri)
    with warehouse.query(query) as reader:
        found = pa.Table.from_batches([portable(batch) for batch in reader])
    assert warehouse.schema(query).names == found.column_names
    return found


def value(uri: str, expression: str) -> Any:
    return table(uri, f"select {expression} as x")["x"][0].as_py()


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("'12.50'::money", "$12.50"),
        ("'12.50'::price", "$12.50"),
        ("array['12.50'::money]", ["$12.50"]),
        ("int4range(1, 5)", "[1,5)"),
        ("interval '1 day 3.5 sec'", "1 day 00:00:03.5"),
        ("array[interval '1 day']", ["1 day"]),
        ("'Infinity'::numeric", "Infinity"),
        ("array['NaN'::numeric, 1.50]", ["NaN", "1.50"]),
        ("'glad'::mood", "glad"),
        ("array['glad', null]::mood[]", ["glad", None]),
        ("inet '10.0.0.1/24'", "10.0.0.1/24"),
        ("bit '101'", "101"),
        ("timetz '10:00+02'", "10:00:00+02"),
        ("point '(1,2)'", "(1,2)"),
        ("row(1, 'x')", "(1,x)"),
        ("4294967295::oid", 4294967295),
        ("array[1, null]", [1, None]),
        ("'{}'::int[]", []),
        ("1.5::real", 1.5),
        ("timestamp '9999-12-31'", dt.datetime(9999, 12, 31)),
        ("date '0001-01-01'", dt.date(1, 1, 1)),
    ],
)
def test_values_of_postgresql(server: str, expression: str, text: object) -> None:
    assert value(server, expression) == text


@pytest.mark.parametrize(
    "expression",
    [
        "array[[1, 2], [3, 4]]",
        "'[2:3]={1,2}'::int[]",
        "array[['glad']]::mood[]",
        "'infinity'::timestamp",
        "'-infinity'::timestamptz",
        "timestamp '294276-01-01'",
        "array[null, 'infinity'::timestamp]",
        "'infinity'::date",
        "'-infinity'::date",
        "time '24:00'",
    ],
)
def test_what_the_driver_cannot_carry_is_refused_by_its_column(server: str, expression: str) -> None:
    with pytest.raises(InputError, match="column 'x' of the query holds"):
        value(server, expression)


def test_the_order_of_a_query_with_casts(server: str) -> None:
    rows = table(server, "select i, i::money as m from generate_series(1, 50000) as i order by i desc -- last first")
    assert rows["i"].to_pylist() == list(range(50000, 0, -1))


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("interval '1 day'", "1 day"),
        ("{'took': interval '1 day'}", "{'took': 1 day}"),
        ("timetz '10:00:00+02'", "10:00:00+02"),
        ("'101'::bit", "101"),
        ("340282366920938463463374607431768211455::uhugeint", "340282366920938463463374607431768211455"),
        ("[[1, 2], [3]]", [[1, 2], [3]]),
    ],
)
def test_values_of_duckdb(expression: str, text: object) -> None:
    assert value("duckdb://", expression) == text
    with pytest.raises(InputError, match="column 'x' of the query holds infinity"):
        value("duckdb://", "'infinity'::timestamp")


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("select 1", "select 1"),
        ("select 1 ; -- tonight", "select 1"),
        ("select 1 -- one;\n;; /* two; */\n", "select 1"),
        ("select '-- no;' -- yes", "select '-- no;'"),
        ('select 1 as "a--b;" /* x */', 'select 1 as "a--b;"'),
        ("select $t$ ; -- $t$;", "select $t$ ; -- $t$"),
        ("select 1 - 1 / 2 -- x", "select 1 - 1 / 2"),
    ],
)
def test_a_query_without_what_follows_it(query: str, left: str) -> None:
    assert bare(query) == left


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("create table p (i integer, t text, r real, b blob, x)")
        yield connection
    connection.close()


def of(tmp_path: Path, query: str = "select * from p") -> pa.Table:
    return table(f"sqlite://{tmp_path}/a.db", query)


def test_sqlite_without_rows(database: sqlite3.Connection, tmp_path: Path) -> None:
    found = of(tmp_path, "select i, t, r, x, upper(t) as u from p;")
    assert found.num_rows == 0
    assert found.schema.types == [pa.int64(), pa.string(), pa.float64(), pa.string(), pa.string()]


def test_sqlite_takes_the_types_from_all_rows(database: sqlite3.Connection, tmp_path: Path) -> None:
    rows: list[Any] = [(i, None, None, None, i) for i in range(3000)]
    rows[2999] = (2999, "late", 0.1, b"\0", 0.30000000000000004)
    database.executemany("insert into p values (?, ?, ?, ?, ?)", rows)
    database.commit()
    found = of(tmp_path, "select * from p order by i desc")
    assert found["i"].to_pylist() == list(range(2999, -1, -1))
    assert found.slice(0, 2).to_pylist() == [
        {"i": 2999, "t": "late", "r": 0.1, "b": b"\0", "x": 0.30000000000000004},
        {"i": 2998, "t": None, "r": None, "b": None, "x": 2998.0},
    ]


def test_sqlite_values_of_several_types_become_text_with_all_digits(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    values: list[Any] = [1, 0.5, 0.1 + 0.2, "word", None, 2**60]
    database.executemany("insert into p (x) values (?)", [(one,) for one in values])
    database.commit()
    assert of(tmp_path)["x"].to_pylist() == ["1", "0.5", "0.30000000000000004", "word", None, str(2**60)]
    database.execute("delete from p where x = 'word'")
    database.commit()
    assert of(tmp_path)["x"].to_pylist()[-1] == str(2**60), "no double holds it"
    database.execute("insert into p (x) values (x'00')")
    database.commit()
    with pytest.raises(InputError, match="column 'x' of the query holds blobs and other values"):
        of(tmp_path)


@pytest.mark.parametrize("name", ["a.db", "a#1.db", "a?b.db", "[x].db"])
def test_a_path_of_sqlite_is_shown_as_it_was_written(name: str) -> None:
    assert Warehouse(f"sqlite:////tmp/{name}").public == f"sqlite:////tmp/{name}"
    assert Warehouse(f"sqlite://{name}").public == f"sqlite://{name}"
    assert Warehouse("sqlite:///tmp/a.db").identity == "sqlite:///tmp/a.db"
