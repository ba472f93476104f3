"""Whole jobs that decide by a stored calibration of the confidence, and by signals that a log has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from batchroute.confidence.calibrate import calibrate_confidence, write
from batchroute.confidence.calibration import ConfidenceCalibration
from batchroute.confidence.choice import bounds_among
from batchroute.errors import InputError
from batchroute.pipeline.stages.decide import read_decision
from batchroute.pipeline.stored_confidence import points_of
from batchroute.pipeline.tonight.way import read_way
from batchroute.router.calibration.points import within
from batchroute.storage.local import LocalFolder
from batchroute.storage.workdir import Workdir, run_ids
from batchroute.tables import quality_table
from tests.support.jobs import JobFolder, table

ROWS = 300
LOWEST = -8.0
"""Of echo's `logprob_low`, which is even from there to 0."""


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """600 prompts; the small model is right where it is sure, and the helper agrees where it is right."""
    rng = np.random.default_rng(0)
    low = rng.uniform(LOWEST, 0.0, 600)
    right = low > LOWEST / 2
    tokens = rng.integers(1, 18, 600)
    frame = pl.DataFrame(
        {
            "prompt": [f"question {row}" for row in range(600)],
            "small_quality": right.astype(float).reshape(-1, 1).tolist(),
            "large_quality": [[1.0]] * 600,
            "small_logprob": (low / 2).reshape(-1, 1).tolist(),
            "small_logprob_low": low.reshape(-1, 1).tolist(),
            "helper": right ^ (rng.random(600) < 0.02),
            **{f"{side}_input_tokens": tokens for side in ("small", "large")},
            **{f"{side}_output_tokens": tokens.reshape(-1, 1).tolist() for side in ("small", "large")},
        }
    )
    path = tmp_path_factory.mktemp("labelled") / "q.parquet"
    frame.write_parquet(path)
    return str(path)


def stored(labelled: str, folder: Path, signals: list[str], scores: Any = None) -> ConfidenceCalibration:
    calibration = calibrate_confidence(quality_table.read(labelled, signals), scores)
    write(calibration, folder)
    return calibration


def job_of(folder: Path, **policy: Any) -> JobFolder:
    frame = table(ROWS).with_columns(helper=pl.int_range(ROWS) % 2 == 0)
    job = JobFolder(folder, frame, policy={"max_quality_drop": "5%", "decide": "after", **policy})
    job.settings["report"] = {"signals": True}
    return job


def test_a_stored_calibration_sets_the_threshold(tmp_path: Path, labelled: str) -> None:
    calibration = stored(labelled, tmp_path / "confidence", [])
    job = job_of(tmp_path, calibration=str(tmp_path / "confidence"))
    del job.settings["router"]
    outcome = job.run()
    point = calibration.within(5.0, "bounded")
    assert point is not None
    answers = job.answers()
    small = answers["route"] == "small"
    assert small.to_list() == (answers["confidence"] >= np.float32(point.threshold)).to_list()
    assert small.mean() == pytest.approx(0.5, abs=0.1)
    assert answers.filter(small)["logprob_low"].min() > LOWEST * 0.6
    assert outcome.night is not None
    assert outcome.night.expected.drop is not None
    assert 0.0 <= outcome.night.expected.drop.value <= 5.0
    # What decides is in the identity of the run.
    stored(labelled, tmp_path / "confidence", ["helper"])
    with pytest.raises(InputError, match=r"reads the signal 'helper', .* set policy\.signals"):
        job.run()


def test_a_stored_calibration_reads_signals_of_a_log(tmp_path: Path, labelled: str) -> None:
    stored(labelled, tmp_path / "confidence", ["helper"])
    job = job_of(tmp_path, calibration=str(tmp_path / "confidence"), signals=["helper"])
    del job.settings["router"]
    job.run()
    small = job.answers().filter(route="small")
    assert len(small) > ROWS / 5
    # An answer that the helper doubts stays only if the model itself is sure.
    doubted = small.filter(pl.col("helper").not_())
    assert len(doubted) < len(small) / 2
    assert doubted["logprob_low"].min() > LOWEST * 0.6


def test_tonights_calibration_reads_signals_of_a_log(tmp_path: Path) -> None:
    """The small model cuts long prompts, and only the log knows which are long.

    With a limit of 10 % by 100 rows some draws let long prompts stay, as they may.
    """
    tonight = {"rows": 150, "metric": "exact_match", "reference": "large"}
    job = job_of(tmp_path, max_quality_drop="5%", calibrate=tonight, signals=["short"])
    frame = table(ROWS).with_columns(short=pl.col("prompt").str.split(" ").list.len() <= 8)
    frame.write_parquet(job.input)
    del job.settings["router"]
    job.settings["models"]["small"] |= {"generation": {"max_new_tokens": 8}, "confidence": {"logprobs": True}}
    job.run()
    small = job.answers().filter(route="small")
    assert len(small) > ROWS / 8
    assert small["short"].mean() > 0.9


def test_auto_decides_by_points_whose_bounds_share_the_chance(tmp_path: Path, labelled: str) -> None:
    job = job_of(tmp_path, decide="auto")
    job.calibrate()
    scores = np.random.default_rng(1).random(600).astype(np.float32)
    calibration = stored(labelled, job.router, [], scores)
    job.run()
    output = LocalFolder(job.output)
    work = Workdir(output, run_ids(output)[0])
    decision, way = read_decision(work), read_way(work)
    assert decision is not None
    assert way is not None
    assert way.way != "before"
    points = points_of(calibration, way.plan, 3)
    assert points is not None
    chosen, alone = within(points, 5.0, "bounded"), calibration.within(5.0, "bounded")
    assert chosen is not None
    assert alone is not None
    (decided,) = decision.decided
    assert decided.cutoff is not None
    assert decided.cutoff.score == pytest.approx(chosen.threshold)
    assert chosen.cost_advantage <= alone.cost_advantage
    same = min(calibration.points, key=lambda point: abs(point.cost_advantage - chosen.cost_advantage))
    assert chosen.bound > same.bound
    assert bounds_among(3) > calibration.confidence


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"signals": ["helper"]}, "policy.signals needs rows that show what they are worth"),
        ({"signals": ["helper"], "calibration": "confidence"}, "was fitted without 'helper': calibrate with --signal"),
        ({"signals": ["absent"], "calibration": "confidence"}, "was fitted without 'absent'"),
        ({"signals": ["team"], "calibrate": {"rows": 50, "metric": "exact_match", "reference": "large"}},
         "policy.signals: column 'team' is .*string; a signal is a number"),
        ({"signals": ["absent"], "calibrate": {"rows": 50, "metric": "exact_match", "reference": "large"}},
         "policy.signals: no column 'absent' in the input"),
    ],
)  # fmt: skip
def test_signals_that_say_nothing_are_one_sentence(
    tmp_path: Path, labelled: str, policy: dict[str, Any], words: str
) -> None:
    job = job_of(tmp_path, **policy)
    del job.settings["router"]
    if "calibration" in policy:
        stored(labelled, tmp_path / "confidence", [])
        job.settings["policy"]["calibration"] = str(tmp_path / "confidence")
    with pytest.raises(InputError, match=words):
        job.run()


def test_a_calibration_that_reads_more_than_the_job_asks_for_is_one_sentence(tmp_path: Path, labelled: str) -> None:
    stored(labelled, tmp_path / "confidence", [])
    job = job_of(tmp_path, calibration=str(tmp_path / "confidence"))
    del job.settings["router"]
    job.settings["models"]["small"]["confidence"] = {"logprobs": False, "samples": 3}
    with pytest.raises(InputError, match=r"'logprob', .* set models\.small\.confidence\.logprobs"):
        job.run()
