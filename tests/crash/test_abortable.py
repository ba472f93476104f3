"""Abortable: a run that ends at any point leaves nothing that counts, and nothing that stays for ever."""

from __future__ import annotations

import polars as pl
import pytest

from batchroute.commands.gc import collect
from batchroute.reports.night import FILES
from tests.crash import forking
from tests.crash.forking import CRASHED, Crash
from tests.crash.places import Place


@pytest.mark.crash
def test_before_its_last_put_a_run_has_no_output(somewhere: Place, calm: pl.DataFrame) -> None:
    puts = len(forking.lines(somewhere.log, "put"))
    somewhere.new_output()
    assert somewhere.run(Crash(puts - 1, "before")) == CRASHED
    assert not somewhere.committed()
    assert somewhere.run() == 0
    somewhere.check(calm)


@pytest.mark.crash
def test_after_the_commit_gc_leaves_the_manifest_and_what_it_names(somewhere: Place, calm: pl.DataFrame) -> None:
    somewhere.filesystem().pipe_file(f"{somewhere.output}/data/notes.txt", b"of the user")
    would = collect(somewhere.output, 0.0, dry_run=True)
    assert len(would) == 1
    assert somewhere.receipts()
    assert collect(somewhere.output, 0.0) == would
    left = sorted(name.split("/out1/")[-1] for name in somewhere.files())
    parts = [f"data/part-{number:05d}.parquet" for number in range(2)]
    reports = sorted(f"report/{name}" for name in FILES)
    assert left == ["data/notes.txt", *parts, "manifest.json", *reports]
    assert collect(somewhere.output, 0.0) == []
    somewhere.check(calm)
    assert somewhere.run() == 0, "a run after gc has nothing to do"


@pytest.mark.crash
def test_gc_of_a_stopped_run_leaves_all_that_it_can_go_on_with(somewhere: Place, calm: pl.DataFrame) -> None:
    somewhere.new_output()
    assert somewhere.run(Crash(15, "after")) == CRASHED
    before = somewhere.files()
    assert collect(somewhere.output, 0.0) == []
    assert somewhere.files() == before
    assert somewhere.run() == 0
    somewhere.check(calm)
