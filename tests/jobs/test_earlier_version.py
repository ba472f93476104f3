"""A run that version 0.1.0 began, killed after 2 of the 4 units of the large model, is finished by this version.

The folder next to this file has its input, its router and its work folder as the kill left them. A run knows its input
by path, size and time: the test puts both back.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchroute.errors import InputError
from tests.support.jobs import JobFolder

BEGUN = Path(__file__).parent / "begun_by_an_earlier_version"
PLACE = Path("/tmp/batchroute-begun-by-0.1.0")
INPUT_TIME = 1795950215446749292
RUN_ID = "ee60b4b57529415a"


@pytest.fixture
def folder() -> Iterator[JobFolder]:
    # One at a time on this machine: the place is part of what the run is.
    with open("/tmp/batchroute-begun-by-0.1.0.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(PLACE, ignore_errors=True)
        shutil.copytree(BEGUN, PLACE)
        os.utime(PLACE / "in.parquet", ns=(INPUT_TIME, INPUT_TIME))
        yield JobFolder(PLACE, units={"score": 32, "generate": 8, "merge": 32})
        shutil.rmtree(PLACE)


def units(folder: JobFolder, stage: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (PLACE / "out.work" / RUN_ID / stage).iterdir()}


def test_its_run_goes_on_where_it_was_killed(folder: JobFolder) -> None:
    scored, small, large = (units(folder, stage) for stage in ("score", "small", "large"))
    outcome = folder.run()
    assert outcome.manifest.run_id == RUN_ID
    assert folder.answers()["status"].to_list() == ["ok"] * 80
    assert (units(folder, "score"), units(folder, "small")) == (scored, small)
    assert len(large) == 4
    assert units(folder, "large").items() > large.items()
    assert "score:" not in folder.log
    assert "large: 4/4 units" in folder.log


def test_another_setting_is_named_as_a_difference(folder: JobFolder) -> None:
    with pytest.raises(InputError, match=r"policy.small_share was 0.6 and is 0.5"):
        folder.run("policy.small_share=50%")
