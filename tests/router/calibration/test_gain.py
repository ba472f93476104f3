from __future__ import annotations

import numpy as np
import pytest

from batchroute.router.calibration.gain import Gain

RNG = np.random.default_rng(0)
SCORES = RNG.uniform(size=2_000).astype(np.float32)
TOKENS = RNG.integers(5, 500, 2_000).astype(np.int32)


def truth(scores: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    gains: np.ndarray = 0.3 - 0.6 * scores + 0.1 * np.log(tokens + 16.0)
    return gains


def test_it_finds_what_score_and_length_say_and_adds_up_to_the_rows_gain() -> None:
    losses = truth(SCORES, TOKENS) + RNG.normal(0, 0.3, 2_000)
    gain = Gain.fit(SCORES, TOKENS, losses, 0.5)
    assert gain.by_score == pytest.approx(-0.6, abs=0.1)
    assert gain.by_length == pytest.approx(0.1, abs=0.03)
    gains = gain.of(SCORES, TOKENS)
    assert gains.mean() == pytest.approx(losses.mean(), abs=0.01)
    assert np.abs(gains - truth(SCORES, TOKENS)).mean() < 0.03


def test_where_large_is_better_beyond_doubt_no_row_loses_on_it_and_the_hardest_gains_most() -> None:
    losses = 0.5 - SCORES + RNG.normal(0, 0.01, 2_000) + 0.1
    gain = Gain.fit(SCORES, TOKENS, losses, 0.5)
    assert gain.large_is_better
    gains = gain.of(np.array([0.1, 0.8, 0.9], np.float32), np.full(3, 50, np.int32))
    assert gains[0] > gains[1] > gains[2] > 0


def test_where_neither_is_better_on_average_a_row_may_lose_on_the_large_one() -> None:
    gain = Gain.fit(SCORES, TOKENS, 0.5 - SCORES + RNG.normal(0, 0.5, 2_000), 0.5)
    assert not gain.large_is_better
    assert gain.of(np.array([0.95], np.float32), np.array([50], np.int32))[0] < 0


def test_a_router_that_says_the_opposite_is_not_heeded() -> None:
    gain = Gain.fit(SCORES, TOKENS, SCORES + 0.1 * np.log(TOKENS + 16.0), 0.5)
    assert gain.by_score == 0.0
    assert gain.by_length == pytest.approx(0.1, abs=0.02)


def test_nothing_is_known_of_a_row_without_a_score_and_equal_rows_are_no_trouble() -> None:
    same = np.full(60, 0.5, np.float32)
    gain = Gain.fit(same, np.full(60, 9, np.int32), np.full(60, 0.25), 1.0)
    assert gain.of(np.array([0.5, np.nan], np.float32), np.array([9, 9], np.int32)) == pytest.approx(
        [0.25, np.nan], nan_ok=True
    )
