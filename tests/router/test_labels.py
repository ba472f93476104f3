from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchroute.errors import InputError
from batchroute.router import labels
from batchroute.router.labels import LabelKind, Labels, Qualities

# Few different values, so that ties are common, and a step that is exact in binary.
QUALITY = st.integers(-8, 8).map(lambda n: n / 4)
SAMPLES = st.lists(QUALITY, min_size=1, max_size=5).map(lambda values: np.array(values, dtype=np.float64))
TABLE = st.lists(st.tuples(SAMPLES, SAMPLES), min_size=1, max_size=12).map(lambda rows: tuple(zip(*rows, strict=True)))


def share_by_hand(small: Qualities, large: Qualities, t: float) -> list[float]:
    return [sum(a >= b - t for a, b in product(s, q)) / (len(s) * len(q)) for s, q in zip(small, large, strict=True)]


def rows(small: list[list[float]], large: list[list[float]]) -> tuple[Qualities, Qualities]:
    return [np.array(values, dtype=np.float64) for values in small], [
        np.array(values, dtype=np.float64) for values in large
    ]


@given(TABLE)
def test_det_compares_the_first_samples(table: tuple[Qualities, Qualities]) -> None:
    small, large = table
    assert labels.det(small, large).tolist() == [float(s[0] >= q[0]) for s, q in zip(small, large, strict=True)]


@given(TABLE, st.integers(0, 12).map(lambda n: n / 4))
def test_prob_and_trans_count_all_pairs(table: tuple[Qualities, Qualities], t: float) -> None:
    np.testing.assert_allclose(labels.prob(*table), share_by_hand(*table, 0.0), rtol=1e-6)
    np.testing.assert_allclose(labels.trans(*table, t), share_by_hand(*table, t), rtol=1e-6)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_mean_absolute_difference_equals_the_double_loop(values: list[float]) -> None:
    expected = sum(abs(a - b) for a, b in product(values, values)) / len(values) ** 2
    assert labels.mean_absolute_difference(np.array(values)) == pytest.approx(expected, abs=1e-9)


@given(TABLE)
def test_best_t_is_the_best_of_all_t(table: tuple[Qualities, Qualities]) -> None:
    def spread(t: float) -> float:
        shares = share_by_hand(*table, t)
        return sum(abs(a - b) for a, b in product(shares, shares)) / len(shares) ** 2

    best = labels.best_t(*table)
    everywhere = [n / 8 for n in range(40)]
    assert spread(best.t) == pytest.approx(max(spread(t) for t in everywhere), abs=1e-9)
    assert best.spread.max() == pytest.approx(spread(best.t), abs=1e-9)
    assert best.grid[0] == 0.0
    assert (np.diff(best.grid) > 0).all()


def test_best_t_relaxes_a_comparison_that_the_large_model_always_wins() -> None:
    rng = np.random.default_rng(0)
    small = [rng.normal(-3 + (row % 2), 0.2, 10) for row in range(400)]
    large = [rng.normal(0, 0.2, 10) for _ in range(400)]
    assert labels.prob(small, large).max() == 0.0
    best = labels.best_t(small, large)
    # Half of the prompts lose 2, half lose 3: a margin between the two tells them apart best.
    assert 2.0 < best.t < 3.0
    assert len(best.grid) <= 201
    relaxed = labels.trans(small, large, best.t)
    assert relaxed[1::2].min() > 0.5 > relaxed[0::2].max()


def test_gap_is_scaled_by_percentiles_of_training_rows_and_clipped() -> None:
    small, large = rows([[0.0, 2.0], [0.5], [-9.0]], [[0.0], [0.0, 1.0], [1.0]])
    assert labels.gap(small, large, low=-1.0, high=1.0).tolist() == [1.0, 0.5, 0.0]
    train = rows([[n / 100] for n in range(101)], [[0.0]] * 101)
    fitted = Labels.fit("gap", *train)
    assert (fitted.gap_low, fitted.gap_high) == (pytest.approx(0.01), pytest.approx(0.99))
    assert fitted.apply(*rows([[0.5], [7.0], [-7.0]], [[0.0]] * 3)).tolist() == pytest.approx([0.5, 1.0, 0.0])


def test_gap_falls_back_to_the_extremes_when_nearly_all_gaps_are_equal() -> None:
    train = rows([[0.0]] * 999 + [[1.0]], [[0.0]] * 1000)
    fitted = Labels.fit("gap", *train)
    assert (fitted.gap_low, fitted.gap_high) == (0.0, 1.0)


@pytest.mark.parametrize("kind", get_args(LabelKind))
def test_equal_labels_everywhere_are_refused(kind: LabelKind) -> None:
    with pytest.raises(InputError, match=f"nothing to learn: all 60 training rows get the same '{kind}' label"):
        Labels.fit(kind, *rows([[1.0, 1.0]] * 60, [[0.5]] * 60))


@pytest.mark.parametrize("kind", get_args(LabelKind))
def test_fitted_labels_survive_a_dict_and_do_not_look_at_the_rows_they_are_applied_to(kind: LabelKind) -> None:
    rng = np.random.default_rng(1)
    small, large = [rng.normal(0, 1, 4) for _ in range(80)], [rng.normal(1, 1, 3) for _ in range(80)]
    fitted = Labels.fit(kind, small, large)
    assert Labels.from_dict(fitted.to_dict() | {"other": 1}) == fitted
    whole = fitted.apply(small, large)
    assert whole.dtype == np.float32
    assert fitted.apply(small[:7], large[:7]).tolist() == whole[:7].tolist()
    assert 0 <= whole.min() < whole.max() <= 1


def gaps(values: list[float], seed: int, noise: float) -> tuple[Qualities, Qualities]:
    """Prompts whose true gaps are `values`, with ten samples of each model."""
    rng = np.random.default_rng(seed)
    small = [rng.normal(value, noise, 10) for value in values]
    return small, [rng.normal(0.0, noise, 10) for _ in values]


def test_the_interval_of_t_holds_what_other_prompts_like_these_give() -> None:
    values = np.random.default_rng(0).choice([-1.0, -3.0], 300).tolist()
    best = labels.best_t(*gaps(values, 0, 0.3))
    assert best.low <= best.t <= best.high
    others = [
        labels.best_t(*gaps(np.random.default_rng(s).choice([-1.0, -3.0], 300).tolist(), s, 0.3)).t for s in range(1, 9)
    ]
    assert sum(best.low - 0.1 <= t <= best.high + 0.1 for t in others) >= 6
    # Two kinds of prompts, and t* between them.
    assert all(1.0 < t < 3.0 for t in [best.t, *others])
    assert best.warnings() == []
    curve = best.curve(20)
    assert 20 <= len(curve["t"]) == len(curve["spread"]) <= 21
    assert curve["spread"][curve["t"].index(best.t)] == best.spread.max()


def test_a_t_of_zero_and_an_unstable_one_are_warned_of() -> None:
    rng = np.random.default_rng(3)
    wins = [np.array([float(rng.random() < 0.5)]) for _ in range(200)]
    zero = labels.best_t(wins, [np.array([1.0])] * 200)
    assert zero.t == 0.0
    assert "'trans' is the same as 'prob'" in zero.warnings()[0]
    # Few prompts of no kind: their true gaps are spread evenly.
    unstable = labels.best_t(*gaps(np.linspace(0, -9, 12).tolist(), 0, 0.01))
    assert unstable.high - unstable.low > 0.5 * unstable.grid[-1]
    assert any("unstable" in warning for warning in unstable.warnings())


def test_a_prompt_that_loses_far_more_than_all_others_makes_no_t_look_stable() -> None:
    small, large = gaps(np.linspace(0, -9, 12).tolist(), 0, 0.01)
    best = labels.best_t([*small, np.array([-1000.0])], [*large, np.array([0.0])])
    assert best.grid[-1] == 1000.0
    assert best.high - best.low < 10
    assert any("unstable" in warning for warning in best.warnings())
