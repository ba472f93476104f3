"""Loaded once: however often a run is killed, its table has every row of the commit, once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as postgresql
import pytest

from tests.crash import forking
from tests.support.jobs import JobFolder, table
from tests.support.postgres import execute, postgres

ROWS, OUTPUTS, KILLS = 400, 6, ("snapshot", "commit", "load")
# Slow enough that a kill finds the query and the load under way.
ROW = "'row-' || i as id, 'prompt ' || i as prompt"
BACKLOG = f"create table backlog as select {ROW} from generate_series(1, {ROWS}) i"
QUERY = "select id, prompt || case when pg_sleep(0.0005) is null then '' else '' end as prompt from backlog"
SLOW = (
    "create or replace function slow() returns trigger language plpgsql as "
    "$$ begin perform pg_sleep(0.0005); return new; end $$"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres(tmp_path_factory.mktemp("pg")) as uri:
        execute(uri, BACKLOG, SLOW)
        yield uri


def ids_in(target: dict[str, Any]) -> list[str]:
    """Asked in this process, that runs no job, or by a process of its own where threads do not outlive a fork."""
    if "warehouse" in target:
        with postgresql.connect(target["warehouse"]) as connection, connection.cursor() as cursor:
            cursor.execute(f"select id from {target['name']}")
            return sorted(row[0] for row in cursor.fetchall())
    from deltalake import DeltaTable

    table_of_ids = DeltaTable(target["delta"]).to_pyarrow_table(columns=["id"])
    return sorted(table_of_ids["id"].to_pylist())


def wait_for(log: Path, name: str, process: Any) -> None:
    while process.is_alive() and not any(put.endswith(name) for put in forking.lines(log, "put")):
        time.sleep(0.002)


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["postgresql", "delta"])
def test_kills_in_snapshot_between_commit_and_load_and_in_load(kind: str, server: str, tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, report={}, units={"score": 200, "generate": 200, "merge": 200})
    folder.settings["input"] = {"warehouse": server, "query": QUERY, "id": "id", "prompt": "prompt"}
    chance, landed = random.Random(5), dict.fromkeys(KILLS, 0)
    for number in range(OUTPUTS):
        name = f"answers{number}"
        target = {"delta": str(tmp_path / name)} if kind == "delta" else {"warehouse": server, "name": name}
        folder.settings["output"] = {"uri": str(tmp_path / f"out{number}"), "table": target}
        log = tmp_path / f"log{number}"
        for kill in KILLS:
            process = forking.start(folder.path, log)
            wait_for(log, "source.json" if kill == "snapshot" else "manifest.json", process)
            if kill == "load" and kind == "postgresql":
                execute(server, f"create or replace trigger slow before insert on {name} execute function slow()")
            time.sleep(chance.random() * {"snapshot": 0.2, "commit": 0.01, "load": 0.3}[kill])
            landed[kill] += process.is_alive()
            process.kill()
            process.join()
            if kill == "commit":
                assert (tmp_path / f"out{number}" / "manifest.json").exists()
        assert forking.run(folder.path, log) == 0, forking.lines(log, "error")
        expected = sorted(f"row-{i}" for i in range(1, ROWS + 1))
        assert ids_in(target) == expected
        assert forking.run(folder.path, log) == 0
        assert ids_in(target) == expected
    print(kind, landed)
    assert all(landed.values()), landed


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["postgresql", "sqlite", "duckdb", "delta", "iceberg"])
def test_of_loaders_at_once_one_loads(kind: str, server: str, tmp_path: Path) -> None:
    from tests.jobs.test_table_job import Place

    place = Place(kind, tmp_path, server)
    folder = JobFolder(tmp_path, table(ROWS))
    log = tmp_path / "log"
    assert forking.run(folder.path, log) == 0
    folder.settings["output"]["table"] = place.spec()
    path = folder.path
    processes = [forking.start(path, log) for _ in range(3)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 3, forking.lines(log, "error")
    rows = place.rows()
    assert rows.height == ROWS
    assert rows["id"].n_unique() == ROWS
