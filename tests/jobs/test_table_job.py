"""A job whose answers go into a table: a real PostgreSQL, SQLite, DuckDB, Delta and Iceberg."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbc_driver_duckdb.dbapi as duckdb
import adbc_driver_postgresql.dbapi as postgresql
import adbc_driver_sqlite.dbapi as sqlite
import polars as pl
import pytest
from deltalake import DeltaTable
from pyiceberg.catalog import load_catalog

from batchroute.commands.validate import validate
from batchroute.config import loading
from batchroute.errors import InputError, StoppedError
from batchroute.pipeline import run as job
from batchroute.pipeline.stages.load import load
from batchroute.progress import NoProgress
from batchroute.storage.objects import folder_at
from batchroute.tables.types import portable
from tests.support.jobs import JobFolder, table
from tests.support.postgres import execute, postgres

ROWS = 120
KINDS = ("postgresql", "sqlite", "duckdb", "delta", "iceberg")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres(tmp_path_factory.mktemp("pg")) as uri:
        yield uri


class Place:
    """A table that answers go to, and what it holds."""

    def __init__(self, kind: str, folder: Path, server: str) -> None:
        self.kind, self._folder = kind, folder
        self.uri = {"postgresql": server}.get(kind, f"{kind}://{folder}/{kind}.db")
        self.catalog = {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/lake"}
        if kind == "postgresql":
            execute(server, "drop table if exists answers", "drop table if exists batchroute_loads")

    def spec(self, **more: Any) -> dict[str, Any]:
        if self.kind == "delta":
            return {"delta": str(self._folder / "delta"), **more}
        if self.kind == "iceberg":
            return {"iceberg": "nights.answers", "catalog": self.catalog, **more}
        return {"warehouse": self.uri, "name": "answers", **more}

    def rows(self) -> pl.DataFrame:
        if self.kind == "delta":
            return pl.from_arrow(DeltaTable(str(self._folder / "delta")).to_pyarrow_table()).sort("id")  # type: ignore
        if self.kind == "iceberg":
            found = load_catalog("default", **self.catalog).load_table("nights.answers").scan().to_arrow()
            return pl.from_arrow(found).sort("id")  # type: ignore
        return self.query("select * from answers order by id")

    def query(self, statement: str) -> pl.DataFrame:
        driver = {"postgresql": postgresql, "sqlite": sqlite, "duckdb": duckdb}[self.kind]
        where = self.uri if self.kind == "postgresql" else self.uri.partition("://")[2]
        with driver.connect(where) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return pl.from_arrow([portable(batch) for batch in cursor.fetch_record_batch()])  # type: ignore

    def alter(self, *statements: str) -> None:
        driver = {"postgresql": postgresql, "sqlite": sqlite, "duckdb": duckdb}[self.kind]
        where = self.uri if self.kind == "postgresql" else self.uri.partition("://")[2]
        with driver.connect(where) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            connection.commit()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, server: str) -> Place:
    return Place(request.param, tmp_path, server)


def night(folder: Path, name: str, frame: pl.DataFrame, into: dict[str, Any], **more: Any) -> JobFolder:
    """A job with an output of its own, as each night has."""
    (folder / name).mkdir()
    made = JobFolder(folder / name, frame, **more)
    made.settings["output"]["table"] = into
    return made


def ids(start: int, stop: int) -> pl.DataFrame:
    return table(stop).slice(start)


def test_answers_are_loaded_once_with_all_columns(place: Place, tmp_path: Path) -> None:
    first = night(tmp_path, "one", table(ROWS), place.spec())
    first.run()
    assert f"loaded {ROWS} rows" in first.log
    answers, loaded = first.answers().sort("id"), place.rows()
    assert loaded.columns == answers.columns
    assert loaded["response"].to_list() == answers["response"].to_list()
    assert loaded["score"].cast(pl.Float32).to_list() == answers["score"].to_list()
    assert loaded["cost"].cast(pl.Float64).to_list() == pytest.approx(answers["cost"].cast(pl.Float64).to_list())
    assert first.run().was_done
    assert "were loaded before" in first.log
    assert place.rows().height == ROWS
    tried = "cannot be tried there" if place.kind in ("delta", "iceberg") else "went through"
    assert f"table    a load of no rows {tried}" in validate(first.load(), deep=True)
    assert place.rows().height == ROWS


def test_nights_are_appended(place: Place, tmp_path: Path) -> None:
    night(tmp_path, "one", ids(0, 60), place.spec()).run()
    night(tmp_path, "two", ids(60, ROWS), place.spec()).run()
    assert sorted(place.rows()["id"].to_list()) == sorted(table(ROWS)["id"].to_list())


def test_replace_leaves_the_rows_of_the_last_night(place: Place, tmp_path: Path) -> None:
    night(tmp_path, "one", ids(0, 60), place.spec(mode="replace")).run()
    night(tmp_path, "two", ids(50, 70), place.spec(mode="replace")).run()
    assert sorted(place.rows()["id"].to_list()) == [f"row-{i}" for i in range(50, 70)]


def test_upsert_puts_new_answers_in_the_place_of_old_ones(place: Place, tmp_path: Path) -> None:
    if place.kind == "iceberg":
        with pytest.raises(InputError, match="take append or replace"):
            night(tmp_path, "one", ids(0, 60), place.spec(mode="upsert")).load()
        return
    night(tmp_path, "one", ids(0, 60), place.spec(mode="upsert")).run()
    changed = ids(50, 70).with_columns(prompt=pl.lit("changed ") + pl.col("id"))
    night(tmp_path, "two", changed, place.spec(mode="upsert")).run()
    rows = place.rows()
    assert rows["id"].n_unique() == rows.height == 70
    assert rows.filter(pl.col("prompt").str.starts_with("changed"))["id"].len() == 20


def test_a_run_that_ended_between_commit_and_load_loads_when_it_is_run_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = night(tmp_path, "one", table(ROWS), place.spec())

    def end(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "load", end)
        with pytest.raises(KeyboardInterrupt):
            folder.run()
    assert place.rows().height == 0
    assert folder.run().was_done
    assert place.rows().height == ROWS


def test_a_second_commit_of_a_run_is_not_appended_to_the_first(place: Place, tmp_path: Path) -> None:
    folder = night(tmp_path, "one", table(ROWS), place.spec())
    folder.run()
    with pytest.raises(InputError, match=r"earlier commit of this run .* append would repeat"):
        folder.run(fresh=True)
    assert folder.run().was_done, "the commit is still there"
    shutil.rmtree(folder.output)
    shutil.rmtree(f"{folder.output}.work")
    with pytest.raises(InputError, match=r"earlier commit of this run .* append would repeat"):
        folder.run()
    assert not (folder.output / "data").exists()
    folder.settings["output"]["table"] = place.spec(mode="replace")
    assert not folder.run().was_done
    assert place.rows().height == ROWS
    assert folder.run(fresh=True).report.rows["ok"] == ROWS
    assert place.rows().height == ROWS


def test_failed_rows_are_not_asked_again_for_a_table_that_would_have_the_others_twice(
    place: Place, tmp_path: Path
) -> None:
    frame = table(9).with_columns(prompt=pl.when(pl.col("id") == "row-7").then(None).otherwise("prompt"))
    folder = night(tmp_path, "one", frame, place.spec(), max_failed=1)
    folder.run()
    with pytest.raises(InputError, match=r"append would repeat"):
        folder.run(retry_failed=True)
    folder.settings["output"]["table"] = place.spec(mode="replace")
    folder.run(retry_failed=True)
    assert place.rows().height == 9


def test_a_clock_that_went_back_keeps_no_later_answers_out(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = night(tmp_path, "one", table(9), place.spec(mode="replace"))
    folder.run()
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    monkeypatch.setattr("batchroute.pipeline.commit._clock", lambda: yesterday)
    for _ in range(2):
        folder.run(fresh=True)
        assert "loaded 9 rows" in folder.log


def test_a_query_that_is_asked_anew_is_another_load(server: str, tmp_path: Path) -> None:
    place = Place("postgresql", tmp_path, server)
    execute(server, "drop table if exists growing", "create table growing as select 'a' as id, 'x' as prompt")
    folder = night(tmp_path, "one", table(1), place.spec(), report={})
    folder.settings["input"] = {"warehouse": server, "query": "select * from growing", "id": "id", "prompt": "prompt"}
    folder.settings["input"]["only_new"] = {"by": "id"}
    folder.run(fresh=True)
    execute(server, "insert into growing values ('b', 'y')")
    assert folder.run(fresh=True).report.rows["total"] == 1
    assert place.rows()["id"].to_list() == ["a", "b"]


def test_validate_asks_the_table_and_makes_none(place: Place, tmp_path: Path) -> None:
    folder = night(tmp_path, "one", table(3), place.spec())
    assert any(line.startswith("table    ") for line in validate(folder.load()))
    assert not list(tmp_path.glob("*.db")) or place.kind == "iceberg"
    folder.settings["output"]["table"] = {"warehouse": "postgresql://u:topsecret@127.0.0.1:1/db", "name": "t"}
    with pytest.raises(StoppedError, match="Connection refused"):
        validate(folder.load())


def test_a_mismatch_is_named_column_by_column_before_the_work(place: Place, tmp_path: Path) -> None:
    night(tmp_path, "one", table(9), place.spec()).run()
    other = table(9).with_columns(more=pl.lit(1), also=pl.lit(2.5))
    other = other.with_columns(team=pl.lit(7))
    folder = night(tmp_path, "two", other, place.spec(), report={})
    with pytest.raises(InputError, match=r"it has no column more \(int\d+\), also \(") as found:
        folder.run()
    if place.kind != "sqlite":
        assert "team is string there and int32 here" in str(found.value)
    assert not (folder.output / "manifest.json").exists()
    assert place.rows().height == 9


def test_a_lake_gains_columns_only_when_allowed(place: Place, tmp_path: Path) -> None:
    night(tmp_path, "one", table(9), place.spec()).run()
    wider = ids(9, 12).with_columns(more=pl.lit("x"))
    folder = night(tmp_path, "two", wider, place.spec(allow_new_columns=True))
    if place.kind not in ("delta", "iceberg"):
        with pytest.raises(InputError, match="allow_new_columns is of delta and iceberg"):
            folder.load()
        return
    folder.run()
    rows = place.rows()
    assert rows.height == 12
    assert rows["more"].null_count() == 9


def test_only_new_ids_are_asked_and_failed_ones_again(place: Place, tmp_path: Path) -> None:
    frame = ids(0, 50).with_columns(prompt=pl.when(pl.col("id") == "row-7").then(None).otherwise("prompt"))
    first = night(tmp_path, "one", frame, place.spec(), max_failed=1)
    first.settings["input"]["only_new"] = {"by": "id"}
    assert first.run().report.rows["total"] == 50
    second = night(tmp_path, "two", table(ROWS), place.spec())
    second.settings["input"]["only_new"] = {"by": "id"}
    assert second.run().report.rows["total"] == ROWS - 49
    assert "49 rows left out" in second.log
    assert second.answers()["id"].to_list() == ["row-7", *(f"row-{i}" for i in range(50, ROWS))]
    third = night(tmp_path, "three", table(ROWS), place.spec())
    third.settings["input"]["only_new"] = {"by": "id"}
    assert third.run().report.rows["total"] == 0


def test_columns_of_any_type_are_loaded(place: Place, tmp_path: Path) -> None:
    frame = table(5).with_columns(
        chat=pl.Series([[{"role": "user", "content": f"hello \x00 {i}"}] for i in range(5)]),
        tags=pl.Series([["a", None], [], None, ["b"], ["c"]]),
        small=pl.lit(3, pl.UInt8),
        big=pl.lit(2**60, pl.UInt64),
        money=pl.lit("1.25").str.to_decimal(scale=2),
        at=pl.datetime(2026, 1, 2, time_zone="Europe/Berlin"),
        day=pl.date(2026, 1, 2),
        time=pl.time(3, 4, 5),
        kind=pl.lit("x").cast(pl.Categorical),
        nothing=pl.lit(None),
        took=pl.duration(seconds=3),
        zero=pl.lit("a\x00b"),
    )
    night(tmp_path, "one", frame, place.spec()).run()
    row = place.rows().row(1, named=True)
    assert row["small"] == 3
    assert int(float(row["big"])) == 2**60
    assert float(row["money"]) == 1.25
    assert str(row["day"]) == "2026-01-02"
    assert "03:04:05" in str(row["time"])
    assert row["kind"] == "x"
    assert row["zero"] == ("a\ufffdb" if place.kind == "postgresql" else "a\x00b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warehouse": "postgresql://user:topsecret@127.0.0.1:1/db", "name": "t"}, "Connection refused"),
        ({"warehouse": "bigquery://project/set", "name": "t"}, "no transactions"),
        ({"warehouse": "postgresql://u@a.b.us-east-1.redshift.amazonaws.com:5439/d", "name": "t"}, "no primary keys"),
        ({"warehouse": "oracle://x", "name": "t"}, "tables of oracle:// are not loaded"),
        ({"warehouse": "duckdb:///nowhere/at/all.db", "name": "t"}, "no such file: /nowhere/at"),
    ],
)
def test_what_will_not_work_is_known_before_the_work(tmp_path: Path, change: dict[str, str], message: str) -> None:
    folder = night(tmp_path, "one", table(9), change)
    with pytest.raises((InputError, StoppedError), match=message) as found:
        folder.run()
    assert "topsecret" not in str(found.value)
    assert not (folder.output / "data").exists()


def test_rights_that_are_missing_are_known_before_the_work(tmp_path: Path, server: str) -> None:
    Place("postgresql", tmp_path, server)
    night(tmp_path, "one", table(9), {"warehouse": server, "name": "answers"}).run()
    execute(server, "drop role if exists reader", "create role reader login", "grant select on answers to reader")
    execute(server, "grant all on batchroute_loads to reader", "grant create on schema public to reader")
    reader = server.replace("postgres:", "reader:", 1)
    folder = night(tmp_path, "two", ids(9, 12), {"warehouse": reader, "name": "answers"})
    with pytest.raises(InputError, match="permission denied for table answers"):
        folder.run()
    assert not (folder.output / "data").exists()


def test_a_load_that_fails_leaves_the_commit_and_nothing_of_the_load(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("postgresql", tmp_path, server)
    folder = night(tmp_path, "one", table(ROWS), place.spec())
    place.alter("create table answers as select 'x' as id limit 0")
    place.alter("drop table answers")
    folder.run("output.table.name=other")
    place.alter("alter table other rename to answers", "delete from answers")
    place.alter("alter table answers add constraint short check (id <> 'row-100')")
    with pytest.raises(InputError, match=r"committed in .*, but not loaded.*violates check constraint"):
        folder.run()
    assert place.rows().height == 0
    place.alter("alter table answers drop constraint short")
    assert folder.run().was_done
    assert place.rows().height == ROWS
    place.alter("drop table answers")


def test_only_new_needs_a_table_and_upsert_an_id(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(3))
    folder.settings["input"]["only_new"] = {"by": "id"}
    with pytest.raises(InputError, match=r"only_new needs output\.table"):
        loading.load(folder.path)
    del folder.settings["input"]["only_new"], folder.settings["input"]["id"]
    folder.settings["output"]["table"] = {"delta": "x", "mode": "upsert"}
    with pytest.raises(InputError, match=r"upsert needs input\.id"):
        loading.load(folder.path)


def test_a_connection_lost_in_the_load_stops_the_run_with_nothing_loaded(tmp_path: Path, server: str) -> None:
    place = Place("postgresql", tmp_path, server)
    night(tmp_path, "one", table(1), place.spec()).run()
    ending = "begin perform pg_terminate_backend(pg_backend_pid()); return new; end"
    place.alter(
        f"create or replace function ending() returns trigger language plpgsql as $$ {ending} $$",
        "create trigger ending before insert on answers for each row when (new.id = 'row-100') "
        "execute function ending()",
    )
    folder = night(tmp_path, "two", ids(1, ROWS), place.spec())
    into = folder.settings["output"].pop("table")
    committed = folder.run().manifest
    folder.settings["output"]["table"] = into
    with pytest.raises(StoppedError, match=r"committed in .*, but not loaded"):
        load(folder.load(), folder_at(str(folder.output)), committed, NoProgress(), attempts=2)
    assert place.rows().height == 1
    place.alter("drop trigger ending on answers")
    assert folder.run().was_done
    assert place.rows().height == ROWS


def test_a_wrong_password_is_told_before_the_work_and_not_shown(tmp_path: Path, server: str) -> None:
    place = Place("postgresql", tmp_path, server)
    path = Path(place.query("select setting from pg_settings where name = 'hba_file'").item())
    before = path.read_text()
    path.write_text(f"local all keeper scram-sha-256\n{before}")
    place.alter("create role keeper login superuser password 'rightsecret'", "select pg_reload_conf()")
    try:
        _wait_until_refused(place, server.replace("postgres:", "keeper:wrongsecret", 1))
        for password, works in (("wrongsecret", False), ("rightsecret", True)):
            uri = server.replace("postgres:", f"keeper:{password}", 1)
            folder = night(tmp_path, password, table(3), {"warehouse": uri, "name": "answers"})
            if works:
                assert folder.run().report.rows["ok"] == 3
                continue
            with pytest.raises(InputError, match="password authentication failed") as found:
                folder.run()
            assert password not in str(found.value)
    finally:
        path.write_text(before)
        place.alter("select pg_reload_conf()")


def _wait_until_refused(place: Place, uri: str) -> None:
    """The server reads its new rules some time after `pg_reload_conf()`, and may miss one of these signals."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            execute(uri, "select 1")
        except postgresql.Error:
            return
        time.sleep(0.2)
        place.alter("select pg_reload_conf()")
    pytest.fail("the server did not read its rules")


def test_a_key_of_a_database_is_in_nothing_that_is_written(tmp_path: Path, server: str) -> None:
    Place("postgresql", tmp_path, server)
    uri = server.replace("postgres:", "postgres:topsecret", 1)
    folder = night(tmp_path, "one", table(3), {"warehouse": uri, "name": "answers"})
    folder.settings["input"]["only_new"] = {"by": "id"}
    folder.run()
    Path(folder.path).unlink()
    assert "topsecret" not in folder.log
    for path in folder.folder.rglob("*"):
        if path.is_file():
            assert b"topsecret" not in path.read_bytes(), path


def test_only_new_ids_of_another_type_are_told(tmp_path: Path, server: str) -> None:
    place = Place("postgresql", tmp_path, server)
    night(tmp_path, "one", table(3), place.spec()).run()
    folder = night(tmp_path, "two", table(3).with_columns(id=pl.Series([1, 2, 3])), place.spec())
    folder.settings["input"]["only_new"] = {"by": "id"}
    with pytest.raises(InputError, match=r"only_new\.by: column 'id' is int64 in the input, which .* does not hold"):
        folder.run()
    folder.settings["input"]["only_new"] = {"by": "nope"}
    with pytest.raises(InputError, match=r"only_new\.by: no column 'nope'"):
        folder.run()
