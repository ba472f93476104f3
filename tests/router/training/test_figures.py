from __future__ import annotations

import numpy as np
import pytest

from batchroute.router.evaluation.curves import MeanQualities, curves
from batchroute.router.training.figures import figures_of, separation

# By score: losses (large − small) of 0, 1, −1, 2 against a large mean of 2.
SCORES = np.array([0.2, 0.9, 0.4, 0.7], np.float32)
LARGE = np.array([3.0, 1.0, 1.0, 3.0])
SMALL = np.array([1.0, 1.0, 2.0, 2.0])


def separated(scores: np.ndarray, small: np.ndarray, large: np.ndarray) -> float:
    qualities = MeanQualities.of(small, large, [f"prompt {row}" for row in range(len(small))])
    return separation(curves(scores, qualities), qualities)


def test_separation_is_the_mean_difference_of_gaps_in_their_own_spread() -> None:
    scores, small, large = (np.repeat(column, 10) for column in (SCORES, SMALL, LARGE))
    gaps = (small - large)[np.argsort(-scores, kind="stable")]
    differences = [gaps[:n].mean() - gaps[n:].mean() for n in range(4, 40, 4)]
    expected = np.mean(differences) / gaps.std()
    assert separated(scores, small, large) == pytest.approx(expected)
    assert separated(scores, 10 * small, 10 * large) == pytest.approx(expected)
    assert separated(np.zeros(40), small, large) == pytest.approx(0.0)
    assert separated(scores, large, large) == 0.0
    assert separated(small - large, small, large) > separated(scores, small, large)


def test_the_figures_of_an_epoch() -> None:
    qualities = MeanQualities.of(SMALL, LARGE, list("abcd"))
    figures = figures_of(SCORES, np.array([0.0, 1.0, 0.5, 1.0], np.float32), qualities)
    entropy = -np.mean([np.log(0.8), np.log(0.9), 0.5 * (np.log(0.4) + np.log(0.6)), np.log(0.7)])
    assert figures.bce == pytest.approx(entropy, rel=1e-5)
    routed = curves(SCORES, qualities).drop[0]
    assert figures.drop == tuple(routed[[100, 200, 400]])
    assert figures.mean_drop == pytest.approx(routed[100:1000:100].mean())
    assert figures.random_drop == pytest.approx((2.5, 5.0, 10.0))
