from __future__ import annotations

import numpy as np
import pytest

from batchroute.errors import InputError
from batchroute.router.evaluation.figures import (
    figures_of,
    largest_share,
    mean_drop,
    quality_drop,
    random_drop,
    separation,
)

# By score: losses (large − small) of 0, 1, −1, 2 against a large mean of 2.
SCORES = np.array([0.2, 0.9, 0.4, 0.7], np.float32)
LARGE = np.array([3.0, 1.0, 1.0, 3.0])
SMALL = np.array([1.0, 1.0, 2.0, 2.0])


@pytest.mark.parametrize(("share", "drop"), [(0.0, 0.0), (0.25, 0.0), (0.5, 12.5), (0.75, 0.0), (1.0, 25.0)])
def test_the_drop_is_the_loss_of_the_highest_scores(share: float, drop: float) -> None:
    assert quality_drop(SCORES, SMALL, LARGE, share) == pytest.approx(drop)


def test_rows_of_equal_scores_lose_their_average() -> None:
    tied = np.array([0.2, 0.9, 0.9, 0.9], np.float32)
    assert quality_drop(tied, SMALL, LARGE, 0.5) == pytest.approx(0.0)
    assert quality_drop(tied, SMALL, LARGE, 0.25) == pytest.approx(0.0)
    order = [3, 1, 0, 2]
    for share in (0.25, 0.5, 0.75):
        assert quality_drop(tied[order], SMALL[order], LARGE[order], share) == pytest.approx(
            quality_drop(tied, SMALL, LARGE, share)
        )


def test_the_drop_of_negative_qualities_is_a_share_of_their_size() -> None:
    assert quality_drop(SCORES, SMALL - 5, LARGE - 5, 1.0) == pytest.approx(100 * 0.5 / 3)


def test_random_routing_loses_its_share() -> None:
    assert random_drop(SMALL, LARGE, 0.5) == pytest.approx(12.5)


def test_a_large_quality_of_zero_is_one_sentence() -> None:
    for function in (quality_drop, largest_share):
        with pytest.raises(InputError, match="mean quality is 0"):
            function(SCORES, SMALL, LARGE - 2, 0.5)


def test_the_largest_share_within_a_limit() -> None:
    assert largest_share(SCORES, SMALL, LARGE, 0.0) == 0.75
    assert largest_share(SCORES, SMALL, LARGE, 25.0) == 1.0
    assert largest_share(-SCORES, SMALL, LARGE, 10.0) == 0.0


def test_separation_is_the_mean_difference_of_gaps_in_their_own_spread() -> None:
    gaps = (SMALL - LARGE)[np.argsort(-SCORES)]
    # Of four rows 10 … 30 % is one row, 40 … 60 % are two, 70 … 90 % are three.
    differences = [gaps[:n].mean() - gaps[n:].mean() for n in (1, 1, 1, 2, 2, 2, 3, 3, 3)]
    expected = np.mean(differences) / (SMALL - LARGE).std()
    assert separation(SCORES, SMALL, LARGE) == pytest.approx(expected)
    assert separation(SCORES, 10 * SMALL, 10 * LARGE) == pytest.approx(expected)
    assert separation(np.zeros(4), SMALL, LARGE) == pytest.approx(0.0)
    assert separation(SCORES, LARGE, LARGE) == 0.0
    assert separation(SMALL - LARGE, SMALL, LARGE) > separation(SCORES, SMALL, LARGE)


def test_the_figures_of_an_epoch() -> None:
    found = figures_of(SCORES, np.array([0.0, 1.0, 0.5, 1.0], np.float32), SMALL, LARGE)
    expected = -np.mean(
        [np.log(0.8), np.log(0.9), 0.5 * (np.log(0.4) + np.log(0.6)), np.log(0.7)],
    )
    assert found.bce == pytest.approx(expected, rel=1e-5)
    assert found.mean_drop == mean_drop(SCORES, SMALL, LARGE)
    assert found.random_drop == pytest.approx((0.0, 6.25, 12.5))
