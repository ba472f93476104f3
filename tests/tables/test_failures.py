"""Errors of real warehouses and lakes: which of them stop a run for another attempt, and which name wrong input."""

from __future__ import annotations

import contextlib
import select
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import adbc_driver_duckdb.dbapi as duckdb
import adbc_driver_postgresql.dbapi as postgresql
import adbc_driver_sqlite.dbapi as sqlite
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import load_catalog

from batchroute.errors import InputError, StoppedError
from batchroute.tables.failures import exists_already, readable, warehouse_may_pass
from batchroute.tables.lakes import delta_errors
from batchroute.tables.sources.delta import DeltaVersion
from batchroute.tables.sources.iceberg import IcebergSnapshot
from batchroute.tables.warehouse import Warehouse
from tests.support.postgres import execute, postgres

# Each repeats a word that an error which may pass has too.
COLUMNS = ("clock", "closed_at", "connect_id", "timeout", "conflict", "already_exists")
ROWS = pa.table({"id": [1, 2], "prompt": ["a", "b"]})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pg")
    with postgres(folder) as uri:
        rules = folder / "pg_hba.conf"
        rules.write_text("local all secured scram-sha-256\n" + rules.read_text())
        execute(
            uri,
            "create table t as select i as id from generate_series(1, 100000) i",
            "create role secured login password 'right'",
            "create role crowded login connection limit 0",
            "create role weak login",
            "select pg_reload_conf()",
        )
        yield uri


@pytest.fixture(params=["postgresql", "sqlite", "duckdb"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, server: str) -> Warehouse:
    if request.param == "postgresql":
        return Warehouse(server)
    driver = {"sqlite": sqlite, "duckdb": duckdb}[request.param]
    with driver.connect(str(tmp_path / "db")) as connection, connection.cursor() as cursor:
        cursor.execute("create table t (id integer)")
        connection.commit()
    return Warehouse(f"{request.param}://{tmp_path}/db")


def ask(warehouse: Warehouse, query: str) -> None:
    with warehouse.query(query) as reader:
        for _ in reader:
            pass


@pytest.mark.parametrize(
    ("kind", "statement", "left"),
    [
        ("postgresql", "insert into r values (1, 'secret')", "23505: .*a unique constraint .constraint r_pkey"),
        (
            "postgresql",
            "insert into r values (500, 'secret')",
            "23514: .* check constraint .constraint r_id_check",
        ),
        ("postgresql", "insert into r values (null, 'secret')", "23502.*column id"),
        ("postgresql", "insert into r select 2, 'secret'::uuid::text", "DataError 22P02: a text is no value"),
        ("postgresql", "do $$ begin raise exception 'of secret'; end $$", "P0001"),
        ("sqlite", "insert into r values (1, 'secret')", "UNIQUE constraint failed: r.id"),
        ("sqlite", "insert into r values (500, 'secret')", "CHECK constraint failed"),
        ("duckdb", "insert into r values (3, 'secret'), (4, 'it''s secret'), (5, 'secret')", "duplicate key"),
        ("duckdb", "insert into r select 2, cast('a secret''s word' as int)", "Conversion Error: Could not convert"),
        ("duckdb", "select error('of secret')", "Invalid Input Error"),
    ],
)
def test_an_error_about_a_row_does_not_quote_it(
    server: str, tmp_path: Path, kind: str, statement: str, left: str
) -> None:
    warehouse = Warehouse(server if kind == "postgresql" else f"{kind}://{tmp_path}/r.db", create=True)
    with warehouse.connected() as connection, connection.cursor() as cursor:
        cursor.execute("drop table if exists r")
        cursor.execute("create table r (id integer primary key check (id < 100), t text unique)")
        cursor.execute("insert into r values (1, 'x')")
        connection.commit()
    with pytest.raises(InputError, match=left) as found:
        _execute(warehouse, statement)
    assert "secret" not in str(found.value)


def _execute(warehouse: Warehouse, statement: str) -> None:
    with warehouse.connected() as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        cursor.fetchall()


def test_a_lake_that_refuses_a_row_does_not_quote_it(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "t"), pa.table({"id": [1], "prompt": ["x"]}))
    DeltaTable(str(tmp_path / "t")).alter.add_constraint({"short": "prompt < 'y'"})
    with pytest.raises(InputError, match="failed validation check") as found, delta_errors("the Delta table t"):
        write_deltalake(str(tmp_path / "t"), pa.table({"id": [2], "prompt": ["z 'secret' word"]}), mode="append")
    assert "secret" not in str(found.value)
    assert "secret" not in readable(pa.ArrowInvalid("Failed to parse string: 'secret' as a scalar of type int64"))


def with_user(uri: str, user: str) -> Warehouse:
    return Warehouse(uri.replace("postgres:", user, 1))


def with_setting(uri: str, setting: str) -> str:
    return f"{uri}&options=-c%20{setting}"


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_wrong_whatever_its_name(warehouse: Warehouse, column: str) -> None:
    with pytest.raises(InputError, match=column):
        ask(warehouse, f"select {column} from t")
    with pytest.raises(InputError, match=column):
        warehouse.schema(f"select {column} from t")


@pytest.mark.parametrize("query", ["select * from lock_table", "selec 'database is locked'", "connect timeout"])
def test_a_missing_table_and_broken_sql_are_wrong(warehouse: Warehouse, query: str) -> None:
    with pytest.raises(InputError):
        ask(warehouse, query)


def test_a_value_that_does_not_fit_is_wrong_in_the_middle_of_the_rows(server: str) -> None:
    with pytest.raises(InputError, match="division by zero"):
        ask(Warehouse(server), "select 1 / (id - 90000) from t")
    query = "select cast(case when i = 1500000 then 'lock' else '1' end as int) from range(2000000) t(i)"
    with pytest.raises(InputError, match=r"Could not convert string '\*\*\*'"):
        ask(Warehouse("duckdb://"), query)


@pytest.mark.parametrize("uri", ["postgresql://u:p@127.0.0.1:1/db", "postgresql://u:p@host.invalid/db"])
def test_a_server_that_is_not_there_may_come_back(uri: str) -> None:
    with pytest.raises(StoppedError, match="run again"):
        ask(Warehouse(uri), "select 1")


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("secured:wrong", "password authentication failed"),
        ("nobody:x", 'role "nobody" does not exist'),
        ("timeout:x", 'role "timeout" does not exist'),
        ("weak:", "permission denied for table t"),
    ],
)
def test_a_user_whom_the_server_refuses_is_wrong(server: str, user: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(with_user(server, user), "select * from t")


def test_a_database_and_a_setting_that_are_not_there_are_wrong(server: str) -> None:
    with pytest.raises(InputError, match='database "lock" does not exist'):
        ask(Warehouse(server.replace("/postgres?", "/lock?")), "select 1")
    with pytest.raises(InputError, match="invalid URI query parameter"):
        ask(Warehouse(f"{server}&closed=1"), "select 1")


def test_a_server_with_no_place_for_another_connection_may_have_one_later(server: str) -> None:
    with pytest.raises(StoppedError, match="too many connections"):
        ask(with_user(server, "crowded:"), "select 1")


@pytest.mark.parametrize("setting", ["lock_timeout%3D100", "statement_timeout%3D100"])
def test_a_lock_that_another_holds_may_be_released(server: str, setting: str) -> None:
    with postgresql.connect(server) as connection, connection.cursor() as cursor:
        cursor.execute("lock table t in access exclusive mode")
        with pytest.raises(StoppedError, match="timeout"):
            ask(Warehouse(with_setting(server, setting)), "select * from t")


def test_a_connection_that_ends_in_the_middle_of_the_rows_may_be_made_again(server: str) -> None:
    ending = "pg_terminate_backend(pg_backend_pid())::text"
    query = f"select case when id = 90000 then {ending} else repeat('x', 500) end from t"
    with pytest.raises(StoppedError, match="terminating connection"):
        ask(Warehouse(server), query)


def test_a_transaction_that_lost_to_another_may_be_repeated(server: str) -> None:
    warehouse = Warehouse(with_setting(server, "default_transaction_isolation%3Dserializable"))
    execute(server, "create table one as select 1 as v")
    with pytest.raises(StoppedError, match="could not serialize"):
        lose(warehouse)


def lose(warehouse: Warehouse) -> None:
    with (
        warehouse.connected() as first,
        first.cursor() as mine,
        warehouse.connected() as second,
        second.cursor() as theirs,
    ):
        for cursor in (mine, theirs):
            cursor.execute("select * from one")
            cursor.fetchall()
        mine.execute("update one set v = 2")
        first.commit()
        theirs.execute("update one set v = 3")


def pass_on(target: str, listener: socket.socket, most: int) -> None:
    """Passes connections on to a server's socket; ends them without a word after `most` bytes of answers."""
    while most > 0:
        client, _ = listener.accept()
        # Either side may close while the other still sends, as a client does that asks twice.
        with contextlib.suppress(ConnectionError), client, socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(target)
            data = b"any"
            while data and most > 0:
                (ready, *_), _, _ = select.select([client, upstream], [], [])
                data = ready.recv(1 << 16)
                (upstream if ready is client else client).sendall(data)
                most -= len(data) if ready is upstream else 0


def test_a_server_that_vanishes_in_the_middle_of_the_rows_may_come_back(server: str) -> None:
    before, _, folder = server.partition("host=")
    # The path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(dir="/tmp") as other, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{other}/.s.PGSQL.5432")
        listener.listen()
        thread = threading.Thread(target=pass_on, args=(f"{folder}/.s.PGSQL.5432", listener, 10 << 20))
        thread.start()
        with pytest.raises(StoppedError, match="server closed the connection unexpectedly"):
            # A busy machine may take longer than the product waits for a connection.
            ask(Warehouse(f"{before}host={other}&connect_timeout=120"), "select repeat('x', 500) from t")
        thread.join()


@pytest.mark.parametrize("way", ["insert", "ingest"])
def test_a_file_of_sqlite_that_another_locks_may_be_free_later(tmp_path: Path, way: str) -> None:
    # Both by the driver: locks do not hold between two copies of SQLite in one process.
    warehouse = Warehouse(f"sqlite://{tmp_path}/db", create=True)
    with sqlite.connect(f"{tmp_path}/db") as other, other.cursor() as holder:
        holder.execute("create table t (id integer)")
        other.commit()
        holder.execute("insert into t values (1)")
        with pytest.raises(StoppedError, match="database is locked"):
            write(warehouse, way)


def write(warehouse: Warehouse, way: str) -> None:
    with warehouse.connected() as connection, connection.cursor() as cursor:
        cursor.execute("pragma busy_timeout = 50")
        if way == "insert":
            cursor.execute("insert into t values (2)")
        cursor.adbc_ingest("t", pa.table({"id": [2]}), mode="append")


def test_a_row_that_repeats_a_key_is_wrong(server: str, tmp_path: Path) -> None:
    for uri in (server, f"sqlite://{tmp_path}/lock.db", f"duckdb://{tmp_path}/conflict.db"):
        with pytest.raises(InputError):
            repeat_a_key(Warehouse(uri, create=True))


def repeat_a_key(warehouse: Warehouse) -> None:
    with warehouse.connected() as connection, connection.cursor() as cursor:
        cursor.execute("create table locked (id integer primary key)")
        connection.commit()
        for _ in range(2):
            cursor.adbc_ingest("locked", pa.table({"id": pa.array([1], pa.int32())}), mode="append")
        connection.commit()


def test_a_file_of_duckdb_that_another_process_holds_may_be_free_later(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    hold = f"import adbc_driver_duckdb.dbapi as d; c = d.connect({path!r}); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StoppedError, match="Could not set lock on file"):
            ask(Warehouse(f"duckdb://{path}"), "select 1")
        other.communicate(b"\n")


def test_transactions_of_duckdb_that_conflict_may_be_repeated() -> None:
    with duckdb.connect(":memory:") as first:
        with first.cursor() as cursor:
            cursor.execute("create table t as select 1 as id")
            first.commit()
        with first.adbc_clone() as second, first.cursor() as mine, second.cursor() as theirs:
            mine.execute("update t set id = 2")
            with pytest.raises(duckdb.Error) as conflict:
                theirs.execute("update t set id = 3")
    assert warehouse_may_pass("duckdb", conflict.value)


def test_a_table_that_two_connections_create_at_once_exists_already(server: str) -> None:
    errors: list[Exception] = []
    with postgresql.connect(server) as first, first.cursor() as mine:
        mine.execute("create table same (id integer)")

        def create() -> None:
            try:
                execute(server, "create table if not exists same (id integer)")
            except postgresql.Error as error:
                errors.append(error)

        other = threading.Thread(target=create)
        other.start()
        # The other connection waits for this one's commit, so that it cannot end before.
        other.join(0.5)
        first.commit()
        other.join()
    assert [exists_already(error) for error in errors] in ([], [True])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    write_deltalake(str(folder / "delta"), ROWS)
    catalog = load_catalog("default", **properties(folder))
    catalog.create_namespace("nights")
    catalog.create_table("nights.t", schema=ROWS.schema).append(ROWS)
    return folder


def properties(folder: Path) -> dict[str, str]:
    return {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/lake"}


def read(source: DeltaVersion | IcebergSnapshot) -> None:
    with source.rows(source.pin()) as reader:
        for _ in reader:
            pass


def delta(where: str, folder: Path) -> DeltaVersion:
    return DeltaVersion(str(folder / "delta"), {}, None, None, where)


def iceberg(where: str, catalog: dict[str, str], name: str = "nights.t") -> IcebergSnapshot:
    return IcebergSnapshot(name, catalog, None, None, where)


@pytest.mark.parametrize("where", [*(f"{column} = 1" for column in COLUMNS), "id = 'locked'", "selec timeout from"])
def test_a_filter_of_a_lake_is_wrong_whatever_it_names(lake: Path, where: str) -> None:
    with pytest.raises(InputError):
        read(delta(where, lake))
    with pytest.raises(InputError):
        read(iceberg(where, properties(lake)))


def test_tables_of_a_lake_that_are_not_there_are_wrong(lake: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Delta table"):
        read(delta("", tmp_path))
    with pytest.raises(InputError, match="Table does not exist"):
        read(iceberg("", properties(lake), "nights.lock"))
    with pytest.raises(InputError, match="unable to open database file"):
        read(iceberg("", {**properties(lake), "uri": "sqlite:////nowhere/lock/catalog.db"}))


def test_a_catalog_that_another_locks_may_be_free_later(lake: Path) -> None:
    catalog = properties(lake)
    with closing(sqlite3.connect(lake / "catalog.db")) as other:
        other.execute("begin exclusive")
        with pytest.raises(StoppedError, match="database is locked"):
            read(iceberg("", {**catalog, "uri": f"{catalog['uri']}?timeout=0.1"}))


class Refusing(BaseHTTPRequestHandler):
    """Answers every request with the status that is the first part of its path."""

    def _answer(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_PUT = do_POST = _answer  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


PASSING, WRONG = (500, 503, 429), (400, 401, 403)


def delta_on(endpoint: str) -> DeltaVersion:
    options = {
        "aws_access_key_id": "k",
        "aws_secret_access_key": "s",
        "aws_endpoint_url": endpoint,
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
        "max_retries": "1",
        "retry_timeout": "1s",
    }
    return DeltaVersion("s3://connect-timeout/locked", options, None, None, "")


@pytest.mark.parametrize("status", [*PASSING, *WRONG])
def test_what_a_bucket_answers_to_delta_decides(refusing: str, status: int) -> None:
    with pytest.raises(StoppedError if status in PASSING else InputError, match=str(status)):
        read(delta_on(f"{refusing}/{status}"))


@pytest.mark.parametrize("status", [*PASSING, *WRONG])
def test_what_a_catalog_answers_decides(refusing: str, status: int) -> None:
    with pytest.raises(StoppedError if status in PASSING else InputError):
        read(iceberg("", {"type": "rest", "uri": f"{refusing}/{status}"}))


@pytest.mark.parametrize("status", [500, 503, 403])
def test_what_a_bucket_answers_to_iceberg_decides(refusing: str, status: int, tmp_path: Path) -> None:
    storage = {"s3.endpoint": f"{refusing}/{status}", "s3.access-key-id": "k", "s3.secret-access-key": "s"}
    catalog = {**properties(tmp_path), "warehouse": "s3://connect/timeout", "s3.region": "us-east-1", **storage}
    load_catalog("default", **catalog).create_namespace("nights")
    with sqlite3.connect(tmp_path / "catalog.db") as connection:
        connection.execute(
            "insert into iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) "
            "values ('default', 'nights', 't', 's3://connect/timeout/metadata.json', 'TABLE')"
        )
    connection.close()
    with pytest.raises(StoppedError if status >= 500 else InputError):
        read(iceberg("", catalog))


def test_a_bucket_and_a_catalog_that_are_not_there_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="Connection refused"):
        read(delta_on("http://127.0.0.1:1"))
    with pytest.raises(StoppedError, match="run again"):
        read(iceberg("", {"type": "rest", "uri": "http://127.0.0.1:1"}))


def test_a_message_shows_no_signature_of_a_url() -> None:
    error = OSError("Generic Azure error\n  \x1b[31m↳\x1b[0m Error performing GET https://a/b?sv=1&sig=abcd in 1ms\n")
    assert readable(error) == "Generic Azure error: Error performing GET https://a/b?*** in 1ms"
