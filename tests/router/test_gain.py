from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchroute.router.gain import Gain, _falling


def test_gains_fall_with_the_score_and_add_up_to_those_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=1_000).astype(np.float32)
    losses = 0.4 - 0.6 * scores + rng.normal(0, 0.3, 1_000)
    gain = Gain.fit(scores, losses, 0.5)
    assert np.all(np.diff(gain.gains) <= 0)
    assert np.all(np.diff(gain.scores) > 0)
    found = gain.of(scores)
    assert abs(found.mean() - losses.mean()) < 0.01
    assert np.abs(found - (0.4 - 0.6 * scores)).mean() < 0.05


def test_beyond_the_calibration_it_is_level_and_nothing_is_known_of_a_row_without_a_score() -> None:
    gain = Gain(scores=[0.4, 0.6], gains=[0.3, 0.1], large_mean=1.0)
    assert np.allclose(gain.of(np.array([0.0, 0.5, 1.0, np.nan], np.float32)), [0.3, 0.2, 0.1, np.nan], equal_nan=True)


def test_few_rows_make_one_bin() -> None:
    assert len(Gain.fit(np.array([0.1, 0.2], np.float32), np.array([0.0, 1.0]), 1.0).gains) == 1


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 5)), min_size=1, max_size=8))
def test_no_falling_sequence_is_nearer(pairs: list[tuple[float, int]]) -> None:
    means, weights = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    found = _falling(means, weights)
    assert np.all(np.diff(found) <= 1e-12)

    def squares(values: np.ndarray) -> float:
        return float((weights * (values - means) ** 2).sum())

    rng = np.random.default_rng(0)
    for _ in range(20):
        other = np.sort(found + rng.normal(0, 0.1, len(found)))[::-1]
        assert squares(found) <= squares(other) + 1e-9
