"""Two runs at once that share a cache: both end, and a later run finds every answer of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import forking
from tests.support.jobs import JobFolder, table


@pytest.mark.crash
def test_two_runs_at_once_share_a_cache(tmp_path: Path) -> None:
    cache, processes = tmp_path / "cache", []
    # One input for the first two.
    inputs = [tmp_path / f"in{number}.parquet" for number in (0, 0, 1)]
    table(120).write_parquet(inputs[0])
    table(200).tail(120).write_parquet(inputs[2])
    for number, path in enumerate(inputs):
        job = job_of(tmp_path / str(number), cache)
        job.settings["input"]["uri"] = str(path)
        processes.append(forking.start(job.path, job.folder / "log"))
    for number, process in enumerate(processes):
        process.join(120)
        assert process.exitcode == 0, forking.lines(tmp_path / str(number) / "log", "error")
    last = job_of(tmp_path / "last", cache)
    table(200).write_parquet(last.input)
    last.run()
    assert last.answers()["from_cache"].to_list() == [True] * 200
    # The first two are one run at two outputs: where none was so late that it had hits, their files are one.
    assert len([*cache.rglob("*.parquet")]) in (2, 3)


def job_of(folder: Path, cache: Path) -> JobFolder:
    """All rows stay with the small model, and no router is loaded."""
    (folder / "router").mkdir(parents=True)
    job = JobFolder(folder, cache={"uri": str(cache)})
    del job.settings["router"]
    job.settings["policy"] = {"small_share": "100%", "decide": "after"}
    return job
