"""The calibration of a confidence: points that hold on other rows, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batchroute.confidence.calibration import ConfidenceCalibration, Measured, measure
from batchroute.confidence.model import ConfidenceModel
from batchroute.confidence.signals import Floats, Signals
from batchroute.errors import InputError
from batchroute.router.calibration.points import within
from batchroute.router.notes import CONFIDENCE_FILE


def _rows(count: int, seed: int = 0) -> tuple[Signals, Floats, Floats]:
    """The small model is wrong for half of the rows, and its lowest tokens know it with noise."""
    rng = np.random.default_rng(seed)
    small = (rng.random(count) < 0.5).astype(float)
    large = (rng.random(count) < 0.9).astype(float)
    return Signals.of(count, logprob_low=2 * small + rng.normal(size=count)), small, large


def _measured(count: int, seed: int = 0) -> Measured:
    return measure(*_rows(count, seed), [str(row) for row in range(count)], seed, resamples=1)


def _calibration(measured: Measured) -> ConfidenceCalibration:
    return ConfidenceCalibration(
        table_sha256="0" * 64,
        rows=300,
        prompts=300,
        models={"small": None, "large": None},
        metric="exact_match",
        model=measured.model,
        points=measured.points,
        large_mean=0.9,
    )


def test_the_bound_holds_on_other_rows_although_the_model_is_fitted_to_the_same() -> None:
    others, small, large = _rows(20_000, seed=1000)
    broken, shares = [], []
    for seed in range(40):
        measured = _measured(300, seed)
        point = within(measured.points, 10.0, "bounded")
        kept = measured.model.apply(others) >= np.float32(2.0 if point is None else point.threshold)
        broken.append(100.0 * ((large - small) * kept).mean() / large.mean() > 10.0)
        shares.append(kept.mean())
    assert np.mean(broken) <= 0.1
    assert np.mean(shares) > 0.2


def test_a_model_of_other_rows_is_measured_as_it_is() -> None:
    signals, small, large = _rows(300)
    other, other_small, other_large = _rows(300, seed=7)
    model = ConfidenceModel.fit(other, other_small - other_large)
    measured = measure(signals, small, large, [str(row) for row in range(300)], 0, model, resamples=1)
    assert measured.model is model
    assert np.array_equal(measured.confidence, model.apply(signals))
    assert measured.points[-1].cost_advantage == 1.0


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    calibration = _calibration(_measured(300))
    (tmp_path / CONFIDENCE_FILE).write_text(calibration.model_dump_json(indent=1))
    assert ConfidenceCalibration.of(tmp_path) == calibration


def test_a_folder_without_one_says_how_to_make_it(tmp_path: Path) -> None:
    assert ConfidenceCalibration.known(tmp_path) is None
    with pytest.raises(InputError, match="'batchroute calibrate --quality-table TABLE --output"):
        ConfidenceCalibration.of(tmp_path)


def test_a_damaged_file_says_where(tmp_path: Path) -> None:
    (tmp_path / CONFIDENCE_FILE).write_text('{"rows": "many"}')
    with pytest.raises(InputError, match="is damaged at table_sha256: calibrate again"):
        ConfidenceCalibration.of(tmp_path)
