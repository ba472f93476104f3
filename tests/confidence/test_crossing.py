"""Cross-fitting: honest in order, and as like the model of all rows as may be."""

from __future__ import annotations

import numpy as np

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


def test_what_tells_all_does_so_whatever_the_fold() -> None:
    rng = np.random.default_rng(0)
    gaps = -(rng.random(80) < 2 / 3).astype(float)
    signals = Signals.of(80, agreement=gaps + 1 + 0.1 * rng.random(80))
    crossed = cross_fitted(signals, gaps, 0)
    assert crossed[gaps == 0].min() > crossed[gaps == -1].max()


def test_few_rows_have_the_confidence_of_the_model_of_all_rows() -> None:
    signals, gaps = _rows(19)
    assert np.array_equal(cross_fitted(signals, gaps, 0), fit(signals, gaps).apply(signals))
