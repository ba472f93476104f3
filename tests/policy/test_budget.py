from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchroute.policy.budget import Floats, Mask, Picos, Priced, by_score, spend

ROWS = st.lists(
    st.tuples(st.sampled_from([-0.5, -0.1, 0.0, 0.1, 0.2, 0.5, 1.0]), st.integers(0, 9), st.integers(0, 9)), max_size=9
)


def arrays(rows: list[tuple[float, int, int]]) -> tuple[Floats, Picos, Picos]:
    gains, small, large = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(gains, np.float64), np.array(small, np.int64), np.array(large, np.int64)


def priced(gains: Floats, small: Picos, large: Picos) -> Priced:
    """Of scores that fall with the gain."""
    return Priced((1.0 - gains).astype(np.float32), gains, small, large)


def quality(gains: Floats, to_small: Mask) -> float:
    """Relative to all rows on small."""
    return float(gains[~to_small].sum())


def cost(small: Picos, large: Picos, to_small: Mask) -> int:
    return int(np.where(to_small, small, large).sum())


def best(gains: Floats, small: Picos, large: Picos, budget: int) -> float | None:
    """By trying every choice."""
    choices = (np.array(choice, bool) for choice in itertools.product([True, False], repeat=len(gains)))
    affordable = [quality(gains, choice) for choice in choices if cost(small, large, choice) <= budget]
    return max(affordable, default=None)


@settings(max_examples=300, deadline=None)
@given(ROWS, st.integers(0, 60))
def test_it_is_within_the_gain_of_one_row_of_the_best_choice_and_never_above_the_budget(
    rows: list[tuple[float, int, int]], budget: int
) -> None:
    gains, small, large = arrays(rows)
    to_small, optimum = spend(priced(gains, small, large), budget), best(gains, small, large, budget)
    assert (to_small is None) == (optimum is None)
    if to_small is None or optimum is None:
        return
    assert cost(small, large, to_small) <= budget
    assert quality(gains, to_small) >= optimum - np.abs(gains).max(initial=0.0) - 1e-9


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(0, 60), st.integers(1, 5))
def test_it_is_the_best_choice_where_all_rows_cost_the_same(
    rows: list[tuple[float, int, int]], budget: int, dearer: int
) -> None:
    gains, small, large = arrays([(gain, 2, 2 + dearer) for gain, _, _ in rows])
    to_small, optimum = spend(priced(gains, small, large), budget), best(gains, small, large, budget)
    assert (to_small is None) == (optimum is None)
    if to_small is not None:
        assert quality(gains, to_small) == pytest.approx(optimum)


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(0, 60))
def test_no_row_is_left_that_would_do_good_and_still_fits(rows: list[tuple[float, int, int]], budget: int) -> None:
    gains, small, large = arrays(rows)
    to_small = spend(priced(gains, small, large), budget)
    if to_small is None:
        return
    left = budget - cost(small, large, to_small)
    for i in np.flatnonzero(to_small & (gains > 0)):
        assert large[i] - small[i] > left


@settings(max_examples=300, deadline=None)
@given(ROWS, st.integers(0, 60))
def test_it_is_never_worse_than_the_order_of_the_score_alone(rows: list[tuple[float, int, int]], budget: int) -> None:
    """Gains fall with the score: in its order, the rows of the largest gain go to large first, while money is left."""
    gains, small, large = arrays([(gain, low, low + extra) for gain, low, extra in rows])
    to_small = spend(priced(gains, small, large), budget)
    if to_small is None:
        return
    alone = by_score(priced(gains, small, large), budget)
    assert cost(small, large, alone) <= budget
    harmless = quality(np.maximum(gains, 0.0), alone)
    assert quality(gains, to_small) >= min(harmless, quality(gains, alone)) - 1e-9


def test_rows_whose_quality_is_known_decide_whether_the_order_per_dollar_is_kept() -> None:
    """Expected gains say that the short rows gain as much as the long ones; in truth they gain nothing."""
    gains, small, large = arrays([(0.5, 1, 11), (0.6, 1, 111)] * 20)
    rows = priced(gains, small, large)
    budget = int(small.sum()) + 10 * 110
    assert not spend(rows, budget)[::2].any()  # type: ignore[index]
    truly = np.where(np.arange(40) % 2 == 0, 0.0, 0.6)
    to_small = spend(rows, budget, (rows, truly))
    assert to_small is not None
    assert to_small[::2].all()
    assert (~to_small[1::2]).sum() == 10
    assert np.array_equal(to_small, by_score(rows, budget))
    assert np.array_equal(spend(rows, budget, (rows, gains)), spend(rows, budget))


def test_a_dollar_goes_where_it_buys_most() -> None:
    gains, small, large = arrays([(1.0, 1, 101), (0.6, 1, 11), (0.6, 1, 11)])
    assert np.array_equal(spend(priced(gains, small, large), 30), [True, False, False])


def test_a_large_model_that_is_cheaper_for_a_row_has_it_unless_money_for_a_better_answer_is_left() -> None:
    gains, small, large = arrays([(-0.5, 9, 1), (0.5, 9, 1)])
    assert np.array_equal(spend(priced(gains, small, large), 2), [False, False])
    assert np.array_equal(spend(priced(gains, small, large), 10), [True, False])


def test_millions_of_rows_are_decided_in_seconds_exactly_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    gains = rng.normal(0.1, 0.2, 1_000_000)
    small = rng.integers(1, 1_000, 1_000_000)
    large = small + rng.lognormal(8, 2, 1_000_000).astype(np.int64)
    budget = int(small.sum()) + int((large - small).sum()) // 3
    to_small = spend(priced(gains, small, large), budget)
    assert to_small is not None
    waiting = (large - small)[to_small & (gains > 0) & (large > small)]
    assert budget - int(waiting.min()) < cost(small, large, to_small) <= budget
