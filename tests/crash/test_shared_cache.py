"""Two runs at once that share a cache: both end, and a later run finds every answer of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import forking
from tests.support.jobs import JobFolder, table


@pytest.mark.crash
def test_two_runs_at_once_share_a_cache(tmp_path: Path) -> None:
    cache, processes = tmp_path / "cache", []
    for number, rows in enumerate((table(120), table(120), table(200).tail(120))):
        job = job_of(tmp_path / str(number), cache)
        # One input for the first two.
        job.settings["input"]["uri"] = str(tmp_path / f"in{max(1, number)}.parquet")
        rows.write_parquet(job.settings["input"]["uri"])
        processes.append(forking.start(job.path, job.folder / "log"))
    for number, process in enumerate(processes):
        process.join(120)
        assert process.exitcode == 0, forking.lines(tmp_path / str(number) / "log", "error")
    last = job_of(tmp_path / "last", cache)
    table(200).write_parquet(last.input)
    last.run()
    assert last.answers()["from_cache"].to_list() == [True] * 200
    # The first two are one run at two outputs: their files have one name, and are there once.
    assert len([*cache.rglob("*.parquet")]) == 2


def job_of(folder: Path, cache: Path) -> JobFolder:
    """All rows stay with the small model, and no router is loaded."""
    (folder / "router").mkdir(parents=True)
    job = JobFolder(folder, cache={"uri": str(cache)})
    del job.settings["router"]
    job.settings["policy"] = {"small_share": "100%", "decide": "after"}
    return job
