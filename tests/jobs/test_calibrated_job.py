"""Runs whose policy is a limit on the quality drop: the router's calibration decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batchroute.commands.validate import validate
from batchroute.errors import InputError
from batchroute.router.calibration.points import Calibration
from tests.support.jobs import JobFolder, table


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job whose router is calibrated on 400 prompts where a high score means that small is as good."""
    folder = JobFolder(tmp_path, table(200), policy={"max_quality_drop": "10%"})
    folder.calibrate(small_model="echo-small", large_model="echo-large")
    return folder


def test_the_rows_at_or_above_the_calibrated_threshold_go_to_small(folder: JobFolder) -> None:
    folder.run("policy.max_quality_drop=30%")
    point = Calibration.of(str(folder.router)).within(30.0, "bounded")
    assert point is not None
    answers = folder.answers()
    small = answers["score"] >= np.float32(point.threshold)
    assert 0 < small.sum() < 200
    assert (answers["route"] == "small").equals(small)
    assert f"threshold {point.threshold:.4g}" in folder.log


def test_a_limit_that_no_threshold_keeps_sends_all_to_large_and_says_so(folder: JobFolder) -> None:
    outcome = folder.run("policy.max_quality_drop=0.01%")
    assert outcome.manifest.counts["large"] == 200
    assert "no threshold of the calibration keeps within it, so all rows go to the large model" in folder.log


def test_the_empirical_rule_can_be_chosen_on_the_command_line(folder: JobFolder) -> None:
    lines = validate(folder.load("policy.rule=empirical", "policy.max_quality_drop=20%"))
    assert any("max_quality_drop 20 % (empirical): threshold" in line for line in lines)
    with pytest.raises(InputError, match="rule belongs to max_quality_drop"):
        folder.load("policy.threshold=0.5", "policy.rule=empirical")


def test_a_router_that_is_not_calibrated_is_named(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(20), policy={"max_quality_drop": "1%"})
    with pytest.raises(InputError, match="is not calibrated: run 'batchroute calibrate"):
        folder.run()
    assert not folder.output.exists()


def test_a_calibration_of_another_pair_is_refused(folder: JobFolder) -> None:
    folder.calibrate(small_model="echo-small", large_model="gpt")
    with pytest.raises(InputError, match=r"calibrated with gpt as the large model, but models\.large\.model is echo-"):
        folder.run()


def test_a_router_that_reads_less_than_when_calibrated_is_refused(folder: JobFolder) -> None:
    with pytest.raises(InputError, match="max_length 8 is less than"):
        folder.run("router.max_length=8")


def test_calibrating_again_is_another_run_only_where_the_policy_asks_the_calibration(folder: JobFolder) -> None:
    folder.run("policy.small_share=50%")
    folder.calibrate()
    assert folder.run("policy.small_share=50%").was_done
    folder.run("policy.max_quality_drop=30%", fresh=True)
    calibration_file = folder.router / "calibration.json"
    found = Calibration.model_validate_json(calibration_file.read_text())
    calibration_file.write_text(found.model_copy(update={"points": found.points[:3]}).model_dump_json())
    with pytest.raises(InputError, match=r"policy\.calibrated"):
        folder.run("policy.max_quality_drop=30%")
