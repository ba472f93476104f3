from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from batchroute.cli import app
from batchroute.commands.simulate import ROWS, WORKERS, Measured, _between, night, simulate
from batchroute.costs.prices import Price
from batchroute.errors import InputError, StoppedError
from batchroute.storage.receipts import Receipt
from tests.support.jobs import JobFolder, table

EVEN = np.array([0.5])
SIZES = {"score": 10, "small": 10, "one": 10}


def seconds(stages: list[Measured], rows: int, workers: int) -> float:
    return night(stages, rows, workers, SIZES).seconds


def test_workers_share_the_units_and_wait_for_the_last() -> None:
    stages = [Measured("score", EVEN, 1.0)]
    assert seconds(stages, 100, 1) == 50
    assert seconds(stages, 100, 4) == 15  # ten units of 5 s: some workers do three
    assert seconds(stages, 100, 64) == 5
    assert seconds([Measured("score", EVEN, 1.0, at_once=2.0)], 100, 1) == 25


def test_each_unit_takes_as_long_to_commit_whatever_its_rows() -> None:
    stages = [Measured("score", EVEN, 1.0, between=2.0, price=Price(gpu_hour=3600))]
    assert seconds(stages, 100, 1) == 70
    assert night(stages, 100, 1, {"score": 100}).seconds == 52
    assert night(stages, 100, 1, SIZES).cost == 50  # as the report counts it
    # More units than are drawn: the larger ones stand for as many commits.
    assert night(stages, 1_000_000, 1, {"score": 1}).seconds == pytest.approx(2_500_000)


def test_the_time_between_units_is_that_of_most_of_them() -> None:
    def done(start: float, stop: float) -> Receipt:
        facts = {"run_id": "r", "unit": "00000", "rows": 1, "first": 0, "last": 0, "file": "f", "bytes": 1}
        return Receipt(**facts, sha256="", seconds=stop - start, finished=stop)

    one_by_one = [done(0, 1), done(1.5, 2.5), done(3, 4), done(5000, 5001), done(5001.5, 5002)]
    assert _between(one_by_one) == pytest.approx(0.5)
    # Where units overlap, no time is between them.
    assert _between([done(0, 2), done(1, 3), done(2.5, 4)]) == 0
    assert _between(one_by_one[:1]) == 0


def test_whoever_is_free_takes_the_next_unit() -> None:
    rng = np.random.default_rng(1)
    stages = [Measured("score", rng.lognormal(0, 1, 50), 1.0)]
    alone = seconds(stages, 1000, 1)
    assert alone / 4 < seconds(stages, 1000, 4) < 1.2 * alone / 4


def test_what_one_process_does_alone_takes_as_long_with_more_workers() -> None:
    stages = [Measured("score", EVEN, 1.0), Measured("one", EVEN, 0.1, alone=True)]
    found = night(stages, 100, 10, SIZES)
    assert (found.seconds, found.alone) == (10, 5)


def test_a_stage_has_its_share_of_the_rows_or_a_fixed_number() -> None:
    assert seconds([Measured("small", EVEN, 0.25)], 400, 1) == 50
    assert seconds([Measured("small", EVEN, 0.25, fixed=20)], 400, 1) == seconds(
        [Measured("small", EVEN, 0.25, fixed=20)], 4000, 1
    )


def test_the_cost_is_by_the_row_or_by_the_busy_time_and_each_workers_loading() -> None:
    by_token = [Measured("small", EVEN, 1.0, pico=2e6)]
    assert night(by_token, 1000, 4, SIZES).cost == pytest.approx(2e-3)
    by_time = [Measured("small", EVEN, 1.0, load=100, price=Price(gpu_hour=3))]
    assert night(by_time, 1000, 4, SIZES).cost == pytest.approx(3 * (500 + 4 * 100) / 3600)
    assert seconds(by_time, 1000, 4) == 100 + 125


def test_a_job_is_simulated_by_the_units_of_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = JobFolder(tmp_path, table(90))
    with pytest.raises(InputError, match="no run of this job has left units to measure; run it on a part"):
        simulate(folder.load())
    outcome = folder.run("policy.small_share=40%")
    app(["plan", str(folder.path), "--set", "policy.small_share=40%", "--simulate"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert printed.count(" 100,000,000 ") == len(WORKERS)
    assert re.search(r"by stage: score \d+ ms, writing", printed)
    units = r"score \d+, writing small \d+, writing large \d+, small \d+, large"
    assert re.search(f"units of a run of this job: {units}", printed)
    stages, nights = simulate(folder.load("policy.small_share=40%"))
    assert [(one.rows, one.workers) for one in nights] == [(rows, count) for rows in ROWS for count in WORKERS]
    shares = {stage.name: stage.share for stage in stages}
    assert shares["small"] == pytest.approx(0.4)
    assert shares["large"] == pytest.approx(0.6)
    assert outcome.report.total_cost is not None
    per_row = float(outcome.report.total_cost) / 90
    assert nights[0].cost == pytest.approx(per_row * ROWS[0], rel=0.2)


def test_a_run_that_has_not_come_to_its_end_is_told(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(90))
    with pytest.raises(StoppedError):
        folder.run("max_tokens=1")
    with pytest.raises(InputError, match="is done yet; let the run go on"):
        simulate(folder.load())
