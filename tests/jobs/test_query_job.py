"""A job over the result of a query: a real PostgreSQL, SQLite and DuckDB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbc_driver_duckdb.dbapi as duckdb
import adbc_driver_sqlite.dbapi as sqlite
import polars as pl
import pytest

from batchroute.commands import status
from batchroute.commands.validate import validate
from batchroute.config import loading
from batchroute.errors import InputError, StoppedError
from batchroute.pipeline import run as job
from batchroute.pipeline.stages import fetch
from batchroute.tables.warehouse import Warehouse
from tests.support.jobs import CutProgress, JobFolder
from tests.support.postgres import execute, postgres

ROWS = 150
FILL = (
    "create table backlog as select i as id, 'prompt number ' || i as prompt, "
    "(i * 0.5)::numeric(10, 2) as price, gen_random_uuid() as token, now() as at "
    f"from generate_series(1, {ROWS}) i"
)
QUERY = "select * from backlog order by id;"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres(tmp_path_factory.mktemp("pg")) as uri:
        execute(uri, FILL)
        yield uri


def query_job(folder: Path, warehouse: str, query: str = QUERY, **settings: Any) -> JobFolder:
    made = JobFolder(folder, **{"report": {}, **settings})
    made.settings["input"] = {"warehouse": warehouse, "query": query, "id": "id", "prompt": "prompt"}
    return made


def test_the_rows_of_a_query_are_answered_in_its_order(server: str, tmp_path: Path) -> None:
    folder = query_job(tmp_path, server)
    outcome = folder.run()
    answers = folder.answers()
    assert answers["id"].to_list() == list(range(1, ROWS + 1))
    assert answers["response"].to_list() == [f"prompt number {i}" for i in range(1, ROWS + 1)]
    assert answers["price"].to_list()[:2] == ["0.50", "1.00"]
    assert outcome.report.rows["ok"] == ROWS
    assert folder.run().was_done


def test_the_query_is_asked_once_a_run(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(server, "create table growing as select 1 as id, 'first' as prompt")
    folder = query_job(tmp_path, server, "select * from growing")

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "generate", stop)
        with pytest.raises(KeyboardInterrupt):
            folder.run()
    execute(server, "drop table growing")
    assert folder.run().report.rows["ok"] == 1
    assert folder.answers()["response"].to_list() == ["first"]


def test_an_attempt_that_was_cut_short_leaves_nothing_of_its_rows(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filling = "select i as id, 'old' as prompt from generate_series(1, 60) i"
    execute(server, f"create table changing as {filling}")
    folder = query_job(tmp_path, server, "select * from changing")
    with pytest.raises(StoppedError, match="cut"):
        job.run(folder.load(), CutProgress("rows fetched"))
    assert len(list(tmp_path.glob("out.work/*/input/*/*.parquet"))) == 1
    status.show(str(folder.output))
    assert "its rows are being fetched, or were when it stopped" in capsys.readouterr().out
    execute(server, "delete from changing where id > 3", "update changing set prompt = 'new'")
    folder.run()
    assert folder.answers()["prompt"].to_list() == ["new"] * 3


def test_a_query_without_rows_is_committed(server: str, tmp_path: Path) -> None:
    folder = query_job(tmp_path, server, "select * from backlog where false")
    assert folder.run().report.rows["total"] == 0
    assert folder.answers().columns[:2] == ["id", "prompt"]


def test_sqlite_and_duckdb(tmp_path: Path) -> None:
    rows = [(i, f"p{i}") for i in range(20)]
    for name, driver in (("sqlite", sqlite), ("duckdb", duckdb)):
        path = tmp_path / name
        with driver.connect(str(path)) as connection, connection.cursor() as cursor:
            cursor.execute("create table t (id integer, prompt text)")
            cursor.execute("insert into t values " + ", ".join(f"({i}, '{text}')" for i, text in rows))
            connection.commit()
        (tmp_path / f"{name}-job").mkdir()
        folder = query_job(tmp_path / f"{name}-job", f"{name}://{path}", "select id, prompt from t order by id")
        folder.run()
        assert folder.answers().select("id", "prompt").rows() == rows


def test_duckdb_reads_parquet_without_a_file_of_its_own(tmp_path: Path) -> None:
    pl.DataFrame({"id": [1, 2, 3], "prompt": ["a", "b", "c"]}).write_parquet(tmp_path / "p.parquet")
    folder = query_job(tmp_path, "duckdb://", f"select * from '{tmp_path}/p.parquet' where id <> 2 order by id")
    folder.run()
    assert folder.answers()["id"].to_list() == [1, 3]


def test_validate_asks_for_the_columns_alone(server: str, tmp_path: Path) -> None:
    folder = query_job(tmp_path, server)
    assert validate(folder.load())[0].startswith("input    a query of postgresql://")
    folder.settings["input"]["prompt"] = "nope"
    with pytest.raises(InputError, match="no column 'nope'"):
        validate(folder.load())
    folder.settings["input"]["prompt"] = "price"
    assert validate(folder.load())
    folder.settings["input"]["prompt"] = "at"
    with pytest.raises(InputError, match="a prompt is text"):
        validate(folder.load())
    assert not folder.output.exists()


@pytest.mark.parametrize(
    ("warehouse", "query", "message"),
    [
        (None, "select * from nope", 'relation "nope" does not exist'),
        (None, "select nope from backlog", 'column "nope" does not exist'),
        (None, "selec", "syntax error"),
        (None, "select 1 as id, prompt from backlog", "repeats 1 ids"),
        ("sqlite:///nowhere.db", "select 1", "no such file: /nowhere.db"),
        ("nothing", "select 1", "not a URI"),
        ("foo://x", "select 1", "no driver for foo://"),
        ("bigquery://project/set", "select 1", r"pip install 'batchroute\[bigquery\]'"),
    ],
)
def test_what_will_never_work_is_one_sentence(
    server: str, tmp_path: Path, warehouse: str | None, query: str, message: str
) -> None:
    folder = query_job(tmp_path, warehouse or server, query)
    with pytest.raises(InputError, match=message) as found:
        folder.run()
    assert "\n" not in str(found.value)
    assert not folder.output.exists() or not list(folder.output.iterdir())


def test_a_warehouse_that_is_down_stops_the_run_for_another_day(tmp_path: Path) -> None:
    folder = query_job(tmp_path, "postgresql://user:topsecret@127.0.0.1:1/db")
    with pytest.raises(StoppedError, match="Connection refused") as found:
        folder.run()
    assert "topsecret" not in str(found.value)


def test_an_unknown_user_is_named_and_no_reason_to_try_again(server: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match='role "nobody" does not exist'):
        query_job(tmp_path, server.replace("postgres:", "nobody:topsecret", 1)).run()


def test_a_connection_that_is_lost_midway_stops_the_run_to_begin_anew(server: str, tmp_path: Path) -> None:
    ending = "pg_terminate_backend(pg_backend_pid())"
    query = f"select i as id, case when i = 90000 then {ending}::text else repeat('x', 500) end as prompt from q"
    execute(server, "create table if not exists q as select i from generate_series(1, 100000) i")
    folder = query_job(tmp_path, server, query)
    with pytest.raises(StoppedError, match="look at it, and run again"):
        folder.run()
    folder.settings["input"]["query"] = query
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_password_is_in_nothing_that_is_written(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(server, "create role keeper login superuser password 'top%secret'")
    monkeypatch.setenv("PG", server.replace("postgres:", "keeper:top%25secret", 1) + "&sslkey=alsosecret")
    folder = query_job(tmp_path, "${PG}")
    folder.run()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert all(word not in content for word in (b"top%25secret", b"top%secret", b"alsosecret")), path
    assert "secret" not in folder.log
    settings = json.loads((folder.output / "manifest.json").read_text())["settings"]
    assert settings["input"]["warehouse"].startswith("postgresql://keeper@")


def test_another_query_is_another_job(server: str, tmp_path: Path) -> None:
    folder = query_job(tmp_path, server)
    folder.run()
    folder.settings["input"]["query"] = "select * from backlog where id < 9"
    with pytest.raises(InputError, match=r"input\.query was .* and is .*--fresh"):
        folder.run()
    assert folder.run(fresh=True).report.rows["ok"] == 8


def test_a_source_is_a_uri_or_a_warehouse(tmp_path: Path) -> None:
    folder = query_job(tmp_path, "duckdb://")
    for change in ({"uri": "x"}, {"query": ""}, {"warehouse": ""}):
        folder.settings["input"] = {"warehouse": "duckdb://", "query": "select 1", **change}
        with pytest.raises(InputError, match=r"give one of uri, warehouse|belong together"):
            loading.load(folder.path)


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("postgres://u:p@h:5/db?sslmode=require&password=x", "postgresql://u@h:5/db?sslmode=require"),
        ("postgresql://u:@/db?host=/run/pg", "postgresql://u@/db?host=/run/pg"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("duckdb://", "duckdb://"),
        ("snowflake://u:p@account/db?token=t", "snowflake://u@account/db"),
    ],
)
def test_what_a_warehouse_is_known_by(uri: str, public: str) -> None:
    assert Warehouse(uri).public == public


def test_memory_does_not_grow_with_the_rows(server: str) -> None:
    """A query of 300 MB: no more than a file of it is held."""
    query = "select i as id, repeat(md5(i::text), 32) as prompt from generate_series(1, 300000) i"
    with Warehouse(server).query(query) as reader:
        sizes = [sum(batch.nbytes for batch in batches) for batches in fetch._files(iter(reader), 16 << 20)]
    assert sum(sizes) > 300_000_000
    assert max(sizes) < 40 << 20
