"""A bad night of the storage: refused, dropped and delayed requests, and a server that dies and comes back."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import pytest

from batchroute.storage.store import Store, _store
from tests.crash import forking
from tests.crash.forking import Crash
from tests.crash.places import Place, place
from tests.support.faults import KINDS, FaultyProxy
from tests.support.seaweed import SeaweedFS


@pytest.fixture
def on_s3(seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    _store.cache_clear()
    return place(tmp_path, seaweed)


def input_to_s3(where: Place) -> None:
    uri = f"{where.base}/input/in.parquet"
    where.filesystem().put_file(str(where.folder.input), uri)
    where.folder.settings["input"]["uri"] = f"{where.base}/input/*.parquet"


@pytest.mark.crash
def test_a_job_through_a_faulty_network_ends_with_the_same_rows(on_s3: Place, seaweed: SeaweedFS) -> None:
    input_to_s3(on_s3)
    on_s3.new_output()
    assert on_s3.run() == 0
    calm, direct = on_s3.rows(), on_s3.environment
    with FaultyProxy(seaweed.endpoint, rate=0.2, seed=3) as proxy:
        on_s3.environment = seaweed.environment(proxy.endpoint)
        on_s3.new_output()
        assert on_s3.run() == 0, forking.lines(on_s3.log, "error")
    on_s3.environment = direct
    assert {kind for kind in KINDS if proxy.counts[kind]} == set(KINDS), proxy.counts
    on_s3.check(calm)


def _impatient() -> None:
    """The first call gives up after three seconds, not fifteen."""
    Store.__init__ = functools.partialmethod(Store.__init__, first_patience=3.0)  # type: ignore[assignment]


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["slow down", "dropped before", "dropped after"])
def test_a_storage_that_stays_bad_stops_the_run_with_a_sentence_and_it_resumes(
    on_s3: Place, seaweed: SeaweedFS, kind: str
) -> None:
    on_s3.new_output()
    with FaultyProxy(seaweed.endpoint, rate=1.0, kinds=[kind]) as proxy:
        direct, on_s3.environment = on_s3.environment, seaweed.environment(proxy.endpoint)
        assert on_s3.run(prepare=_impatient) == 3
    (error,) = forking.lines(on_s3.log, "error")
    assert "run again" in error
    on_s3.environment = direct
    assert on_s3.run() == 0


@pytest.mark.crash
def test_the_server_is_killed_and_comes_back_while_a_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SeaweedFS(tmp_path / "server") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        _store.cache_clear()
        where = place(tmp_path, server)
        where.new_output()
        assert where.run() == 0
        calm = where.rows()
        where.new_output()
        assert where.run(Crash(8, "after")) == forking.CRASHED
        process = where.start()
        while len(forking.lines(where.log, "put")) < 12:
            assert process.is_alive()
            time.sleep(0.005)
        server.kill()
        time.sleep(0.5)
        server.start()
        process.join(120)
        assert process.exitcode == 0, forking.lines(where.log, "error")
        where.check(calm)
    _store.cache_clear()
