"""Exclusive: of all runs on one output exactly one commits; the others end cleanly and name it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.crash import forking
from tests.crash.places import Place

RUNS = 4


@pytest.mark.crash
def test_runs_of_one_job_at_once_make_one_output_and_all_name_its_winner(somewhere: Place, calm: pl.DataFrame) -> None:
    somewhere.new_output()
    processes = [somewhere.start() for _ in range(RUNS)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * RUNS, forking.lines(somewhere.log, "error")
    winner = json.loads(somewhere.filesystem().cat_file(f"{somewhere.output}/manifest.json"))["committed_by"]
    assert forking.lines(somewhere.log, "done") == [winner] * RUNS
    somewhere.check(calm)


@pytest.mark.crash
def test_of_different_jobs_at_once_one_commits_and_the_other_says_what_differs(
    somewhere: Place, calm: pl.DataFrame
) -> None:
    somewhere.new_output()
    jobs = [somewhere.job]
    somewhere.folder.settings["policy"]["small_share"] = "30%"
    other = somewhere.folder.folder / "other.yaml"
    other.write_text(Path(somewhere.folder.path).read_text())
    jobs.append(str(other))
    somewhere.folder.settings["policy"]["small_share"] = "20%"
    assert somewhere.folder.path == jobs[0]
    processes = [forking.start(job, somewhere.log, somewhere.environment) for job in jobs]
    for process in processes:
        process.join(120)
    assert sorted(process.exitcode or 0 for process in processes) == [0, 2]
    (error,) = forking.lines(somewhere.log, "error")
    assert "policy.small_share was" in error
    assert somewhere.rows().height == calm.height
