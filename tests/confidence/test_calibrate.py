"""`calibrate` on quality tables with signals: measured, sampled and recorded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from batchroute.cli import app
from batchroute.confidence.answers import Answers
from batchroute.confidence.calibrate import calibrate_confidence
from batchroute.confidence.calibration import ConfidenceCalibration
from batchroute.errors import InputError
from batchroute.tables import quality_table
from tests.support.tiny_models import tiny_router


def table(folder: Path, rows: int = 300, samples: int = 2, **columns: Any) -> str:
    """Half of the answers are wrong; `small_logprob_low` knows it with noise, `helper` almost always."""
    rng = np.random.default_rng(0)
    small = (rng.random((rows, samples)) < 0.5).astype(float)
    frame = pl.DataFrame(
        {
            "prompt": [f"question {row}" for row in range(rows)],
            "small_quality": small.tolist(),
            "large_quality": [[1.0]] * rows,
            "small_logprob_low": (2 * small + rng.normal(size=small.shape)).tolist(),
            "helper": (small[:, 0] > 0.5) ^ (rng.random(rows) < 0.05),
            **columns,
        }
    )
    path = folder / "q.parquet"
    frame.write_parquet(path)
    return str(path)


def calibrate(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["calibrate", *arguments])
    return result.exit_code, result.output if result.exception is None else f"{result.output}{result.exception}"


def test_each_answer_has_its_own_signals(tmp_path: Path) -> None:
    answers = Answers.of(quality_table.read(table(tmp_path, rows=60), ["helper"]))
    assert len(answers) == 120
    assert answers.group.tolist() == np.unique(answers.prompts, return_inverse=True)[1].tolist()
    assert np.corrcoef(answers.signals.logprob_low, answers.small)[0, 1] > 0.5
    assert answers.signals.extra["helper"][:2].tolist() in ([0.0, 0.0], [1.0, 1.0])


def test_a_row_with_fewer_samples_repeats_them(tmp_path: Path) -> None:
    frame = pl.read_parquet(table(tmp_path, rows=60))
    one = pl.col("small_quality").list.head(1), pl.col("small_logprob_low").list.head(1)
    frame = pl.concat([frame.head(1).with_columns(*one), frame.tail(59)])
    frame.write_parquet(tmp_path / "q.parquet")
    answers = Answers.of(quality_table.read(str(tmp_path / "q.parquet")))
    assert answers.row[:4].tolist() == [0, 0, 1, 1]
    assert answers.small[0] == answers.small[1]
    assert answers.signals.logprob_low[0] == answers.signals.logprob_low[1]


def test_a_confidence_without_a_router_goes_into_a_folder_of_its_own(tmp_path: Path) -> None:
    code, output = calibrate("--quality-table", table(tmp_path), "--output", str(tmp_path / "c"))
    assert code == 0, output
    assert "600 answers to 300 prompts" in output
    calibration = ConfidenceCalibration.of(tmp_path / "c")
    assert (calibration.rows, calibration.prompts, calibration.reference) == (600, 300, None)
    assert list(calibration.model.columns) == ["logprob_low"]
    assert calibration.points[-1].drop == pytest.approx(50.0, abs=5.0)
    assert calibration.answered is not None
    assert calibration.answered.score is None
    assert len(calibration.answered.confidence) == 600


def test_a_recorded_signal_is_taken_by_its_name(tmp_path: Path) -> None:
    path = table(tmp_path, samples=1)
    without, with_helper = (
        calibrate_confidence(quality_table.read(path, names), None).within(5.0, "bounded") for names in ([], ["helper"])
    )
    assert with_helper is not None
    assert with_helper.cost_advantage > 0.4 > (0.0 if without is None else without.cost_advantage)


def test_a_table_of_another_length_of_signals_does_not_guess(tmp_path: Path) -> None:
    frame = pl.read_parquet(table(tmp_path, rows=60))
    frame.with_columns(pl.col("small_logprob_low").list.head(1)).write_parquet(tmp_path / "q.parquet")
    assert not quality_table.read(str(tmp_path / "q.parquet")).tells


def test_the_router_s_folder_gets_both(tmp_path: Path) -> None:
    folder = tiny_router(tmp_path / "router")
    code, output = calibrate("--quality-table", table(tmp_path), "--router", str(folder))
    assert code == 0, output
    calibration = ConfidenceCalibration.of(folder)
    assert "score" in calibration.model.columns
    assert calibration.answered is not None
    assert calibration.answered.score is not None
    assert (folder / "calibration.json").exists()


def test_a_table_without_signals_still_calibrates_its_router(tmp_path: Path) -> None:
    folder, path = tiny_router(tmp_path / "router"), table(tmp_path)
    pl.read_parquet(path).drop("small_logprob_low").write_parquet(path)
    code, output = calibrate("--quality-table", path, "--router", str(folder))
    assert code == 0, output
    assert ConfidenceCalibration.known(folder) is None


@pytest.mark.parametrize(
    ("change", "arguments", "sentence"),
    [
        ({"small_logprob_low": [None] * 300}, [], "has no signals of the small model's answers"),
        ({}, ["--signal", "agrees"], "has no column 'agrees' to take as a signal"),
        ({"helper": ["yes"] * 300}, ["--signal", "helper"], "a signal is a number, true or false"),
        ({"helper": [None] * 300}, ["--signal", "helper"], "'helper' of the quality table"),
        ({"prompt": ["same"] * 300}, [], "has 1 different prompts: at least 50"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, change: dict[str, Any], arguments: list[str], sentence: str
) -> None:
    code, output = calibrate("--quality-table", table(tmp_path, **change), "--output", str(tmp_path / "c"), *arguments)
    assert code != 0
    assert sentence in output


def test_either_a_router_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give either --router, or --output"):
        CliRunner().invoke(
            app, ["calibrate", "--quality-table", "t.parquet"], catch_exceptions=False, standalone_mode=False
        )
