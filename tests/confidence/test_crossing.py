"""Cross-fitting: honest in order, and spread as the confidences of other rows will be."""

from __future__ import annotations

import numpy as np
import pytest

from batchroute.confidence.crossing import cross_fitted
from batchroute.confidence.model import fit
from batchroute.confidence.signals import Floats, Signals


def _rows(count: int) -> tuple[Signals, Floats]:
    """A signal that tells something of the gaps."""
    rng = np.random.default_rng(0)
    gaps = rng.normal(size=count)
    return Signals.of(count, logprob=gaps + rng.normal(size=count)), gaps


def test_what_says_nothing_is_not_flattered() -> None:
    rng = np.random.default_rng(0)
    correlations, flattered = [], []
    for draw in range(20):
        signals = Signals.of(100, {f"noise {i}": rng.normal(size=100) for i in range(4)})
        gaps = -(rng.random(100) < 0.5).astype(float)
        correlations.append(np.corrcoef(cross_fitted(signals, gaps, draw), gaps)[0, 1])
        flattered.append(np.corrcoef(fit(signals, gaps).apply(signals), gaps)[0, 1])
    assert abs(np.mean(correlations)) < 0.1
    assert np.mean(flattered) > 0.2


def test_the_rows_of_a_prompt_are_in_one_fold() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(100), 5)
    of_prompt = rng.normal(size=100)[group]
    gaps = rng.normal(size=100)[group]
    signals = Signals.of(500, logprob=of_prompt)
    apart = np.corrcoef(cross_fitted(signals, gaps, 0, groups=group), gaps)[0, 1]
    assert apart < 0.2


def test_it_is_the_same_each_time() -> None:
    signals, gaps = _rows(200)
    assert np.array_equal(cross_fitted(signals, gaps, 3), cross_fitted(signals, gaps, 3))
    assert not np.array_equal(cross_fitted(signals, gaps, 3), cross_fitted(signals, gaps, 4))


@pytest.mark.parametrize("count", [23, 50, 203, 1_000])
def test_a_threshold_keeps_as_many_rows_as_by_the_model_of_all_rows(count: int) -> None:
    signals, gaps = _rows(count)
    crossed, whole = (np.sort(made) for made in (cross_fitted(signals, gaps, 0), fit(signals, gaps).apply(signals)))
    # Rows beyond what a model clips to have one confidence.
    assert crossed == pytest.approx(whole, abs=0.02)


def test_rows_of_equal_signals_in_one_fold_are_equal() -> None:
    signals, gaps = Signals.of(200, agreement=np.arange(200) % 2), np.arange(200) % 2 - 1.0
    crossed = cross_fitted(signals, gaps, 0, groups=np.repeat(np.arange(50), 4))
    of_prompt = crossed.reshape(50, 2, 2)
    assert np.array_equal(of_prompt[:, 0], of_prompt[:, 1])
    assert (of_prompt[:, :, 0] < of_prompt[:, :, 1]).all()


def test_few_rows_have_the_confidence_of_the_model_of_all_rows() -> None:
    signals, gaps = _rows(19)
    assert np.array_equal(cross_fitted(signals, gaps, 0), fit(signals, gaps).apply(signals))
