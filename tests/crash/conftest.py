from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from batchroute.storage.store import _store
from tests.crash.places import Place, place
from tests.support.seaweed import SeaweedFS


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(params=["disk", "s3"])
def somewhere(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A small job whose output goes to local disk, and then to S3."""
    server: SeaweedFS | None = None
    if request.param == "s3":
        server = request.getfixturevalue("seaweed")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
    yield place(tmp_path, server)
    _store.cache_clear()


@pytest.fixture
def calm(somewhere: Place) -> pl.DataFrame:
    """What an undisturbed run writes."""
    somewhere.new_output()
    assert somewhere.run() == 0
    return somewhere.rows()
