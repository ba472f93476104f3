"""A job on Google Cloud Storage and on Azure, by their emulators: on a bad night, cut short, resumed, read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import batchroute
from batchroute.commands.verify import verify
from batchroute.errors import StoppedError
from batchroute.storage.store import Store, _store
from tests.support import command
from tests.support.azurite import Azurite
from tests.support.faults import FaultyProxy
from tests.support.google import GoogleStorage
from tests.support.jobs import JobFolder, table

ROWS, FEW = 200, 20
FAULTS = ("slow down", "dropped before", "dropped after")


class Cloud:
    """A server, and how it is named."""

    def __init__(self, server: GoogleStorage | Azurite) -> None:
        self.server = server
        self.protocol = "gcs" if isinstance(server, GoogleStorage) else "az"

    def environment(self, endpoint: str) -> dict[str, str]:
        if isinstance(self.server, GoogleStorage):
            return {"STORAGE_EMULATOR_HOST": endpoint}
        return {"AZURE_STORAGE_CONNECTION_STRING": self.server.connection(endpoint)}


@pytest.fixture(scope="module", params=[GoogleStorage, Azurite])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with request.param() as server:
        yield Cloud(server)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    _store.cache_clear()
    yield
    _store.cache_clear()


def test_a_bad_night_ends_with_every_row_once(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, base = JobFolder(tmp_path, table(ROWS)), f"{cloud.protocol}://bucket/{tmp_path.name}"
    for day in range(2):
        table(ROWS)[day::2].write_parquet(tmp_path / "day.parquet")
        data = (tmp_path / "day.parquet").read_bytes()
        cloud.server.filesystem().pipe_file(f"bucket/{tmp_path.name}/in/day={day}/a.parquet", data)
    options = cloud.server.options if cloud.protocol == "gcs" else {}
    with FaultyProxy(cloud.server.endpoint, rate=0.1, kinds=FAULTS, seed=5) as proxy:
        for name, value in cloud.environment(proxy.endpoint).items():
            monkeypatch.setenv(name, value)
        options = {**options, "endpoint_url": proxy.endpoint} if options else {}
        folder.settings["input"] |= {"uri": f"{base}/in/*/*.parquet", "storage_options": options}
        folder.settings["output"] = {"uri": f"{base}/out", "storage_options": options}
        with pytest.raises(StoppedError, match="max_tokens"):
            folder.run("max_tokens=500")
        done = folder.run()
        assert (done.was_done, folder.run().was_done) == (False, True)
    assert all(proxy.counts[kind] for kind in FAULTS)
    for name, value in cloud.environment(cloud.server.endpoint).items():
        monkeypatch.setenv(name, value)
    _store.cache_clear()
    direct = cloud.server.options if options else None
    rows = batchroute.read(f"{base}/out", direct).collect()
    assert rows["id"].to_list() == [*(f"row-{n}" for n in range(0, ROWS, 2)), *(f"row-{n}" for n in range(1, ROWS, 2))]
    assert rows["day"].unique(maintain_order=True).to_list() == [0, 1]
    assert verify(f"{base}/out", direct).wrong == []


def test_of_two_runs_at_once_one_commits(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment(cloud.server.endpoint).items():
        monkeypatch.setenv(name, value)
    options = cloud.server.options if cloud.protocol == "gcs" else {}
    folder = JobFolder(tmp_path, table(FEW), report={})
    output = f"{cloud.protocol}://bucket/{tmp_path.name}/out"
    folder.settings["output"] = {"uri": output, "storage_options": options}
    path = folder.path
    runs = [command.Command("run", path, "--json-logs") for _ in range(2)]
    ended = [run.end() for run in runs]
    assert [one.code for one in ended] == [0, 0], [one.err for one in ended]
    assert batchroute.read(output, options).collect()["id"].to_list() == table(FEW)["id"].to_list()
    assert verify(output, options).wrong == []


@pytest.mark.parametrize("kind", FAULTS)
def test_a_storage_that_stays_bad_stops_within_the_patience(cloud: Cloud, kind: str) -> None:
    with FaultyProxy(cloud.server.endpoint, rate=1.0, kinds=[kind]) as proxy:
        protocol = {"gcs": "gs", "az": "abfs"}[cloud.protocol]
        options = (
            {**cloud.server.options, "endpoint_url": proxy.endpoint}
            if isinstance(cloud.server, GoogleStorage)
            else {"connection_string": cloud.server.connection(proxy.endpoint)}
        )
        store = Store(protocol, options, first_patience=1.0)
        reason = "answers 503" if kind == "slow down" else "does not answer"
        with pytest.raises(StoppedError, match=f"{reason}; look at it, and run again"):
            store.read(f"{protocol}://bucket/x")
    assert 1 < proxy.counts["requests"] < 100


def test_a_command_says_one_sentence_and_nothing_else(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment(cloud.server.endpoint).items():
        monkeypatch.setenv(name, value)
    ended = command.run("tables", "inspect", f"{cloud.protocol}://nobucket/a.parquet")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1, ended.err
    assert "does not exist; create it" in ended.err
