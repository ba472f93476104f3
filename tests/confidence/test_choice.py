"""The choice of deciding before or after, on rows whose best way is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from batchroute.confidence.choice import bounds_among, choose_at, choose_within, shrunk
from batchroute.confidence.plans import Plan, Way, curve, points_by, surely_reaches
from batchroute.confidence.rows import PricedRows


def _rows(
    *,
    count: int = 1000,
    by_score: float,
    by_confidence: float,
    small_cost: float = 0.1,
    signal_cost: float = 0.0,
    router: bool = True,
    seed: int = 0,
) -> PricedRows:
    """Half of the small model's answers are wrong. Score and confidence know that with these weights, and noise."""
    rng = np.random.default_rng(seed)
    right = rng.random(count) < 0.5

    def seen(weight: float) -> np.ndarray:
        return (1 / (1 + np.exp(-(weight * (right - 0.5) + rng.normal(size=count))))).astype(np.float32)

    return PricedRows(
        small=right.astype(float),
        large=np.ones(count),
        confidence=seen(by_confidence),
        score=seen(by_score) if router else None,
        small_cost=np.full(count, small_cost),
        signal_cost=np.full(count, signal_cost),
        large_cost=np.ones(count),
        group=np.arange(count),
    )


def test_before_costs_what_each_row_costs_where_it_goes() -> None:
    rows = _rows(count=10, by_score=5.0, by_confidence=0.0)
    costs = curve(rows, Plan("before")).cost[0]
    assert costs == pytest.approx(1.0 - 0.09 * np.arange(11))


def test_after_pays_the_small_model_and_its_samples_for_all_rows() -> None:
    rows = _rows(count=10, by_score=0.0, by_confidence=5.0, signal_cost=0.05)
    costs = curve(rows, Plan("after")).cost[0]
    assert costs == pytest.approx(1.15 - 0.1 * np.arange(11))


def test_skipping_rows_cost_the_large_model_alone_and_never_stay() -> None:
    rows = _rows(count=10, by_score=1.0, by_confidence=1.0)
    assert rows.score is not None
    cut = float(np.sort(rows.score)[4])
    both = curve(rows, Plan("both", cut))
    assert both.cost[0] == pytest.approx(1.0 + 0.06 - 0.1 * np.arange(7))
    assert both.loss[0][-1] == pytest.approx((rows.large - rows.small)[rows.score >= np.float32(cut)].sum() / 10)


def test_a_cost_between_two_rows_is_interpolated_and_one_below_all_is_not_possible() -> None:
    rows = _rows(count=4, by_score=0.0, by_confidence=0.0)
    known = curve(rows, Plan("after"))
    first, second = known.loss[0][1:3] * 100.0
    assert known.drop_at(1.1 - 0.375)[0] == pytest.approx((first + second) / 2)
    assert known.drop_at(1.2)[0] == 0.0
    assert known.drop_at(0.05)[0] == np.inf


def test_rows_of_equal_confidence_lose_their_average() -> None:
    rows = _rows(count=100, by_score=0.0, by_confidence=0.0)
    equal = PricedRows(**{**{name: getattr(rows, name) for name in rows.__slots__}, "confidence": np.ones(100, "f4")})
    losses = curve(equal, Plan("after")).loss[0]
    assert losses == pytest.approx([0.0, float((rows.large - rows.small).mean())])


@pytest.mark.parametrize(
    ("knows", "way"),
    [
        ({"by_score": 4.0, "by_confidence": 0.5}, "before"),
        ({"by_score": 0.5, "by_confidence": 4.0}, "after"),
        ({"by_score": 1.5, "by_confidence": 1.5, "small_cost": 0.9}, "before"),
        ({"by_score": 1.0, "by_confidence": 2.5, "signal_cost": 0.5}, "before"),
        ({"by_score": 2.0, "by_confidence": 4.0, "small_cost": 0.3}, "both"),
    ],
)
def test_the_better_way_is_taken_at_equal_total_cost(knows: dict[str, Any], way: str) -> None:
    rows = _rows(**knows)
    choice = choose_at(rows, rows.cost_of_share(0.3))
    assert choice.plan.way == way
    assert choice.figures[choice.plan.way] <= min(choice.figures["before"], choice.figures["after"])
    assert choice.why.startswith(f"{way}")
    assert "measured on 1,000 calibration prompts" in choice.why


@pytest.mark.parametrize(
    ("knows", "way"),
    [
        ({"by_score": 6.0, "by_confidence": 0.5}, "before"),
        ({"by_score": 0.5, "by_confidence": 6.0}, "after"),
        ({"by_score": 0.0, "by_confidence": 0.0}, "before"),
    ],
)
def test_the_cheaper_way_is_taken_at_the_same_limit(knows: dict[str, Any], way: str) -> None:
    choice = choose_within(_rows(count=400, **knows), 10.0, "bounded")
    assert choice.plan.way == way
    assert choice.figures[choice.plan.way] <= min(choice.figures["before"], choice.figures["after"])


def test_without_a_router_nothing_is_decided_before() -> None:
    choice = choose_at(_rows(by_score=0.0, by_confidence=2.0, router=False), 0.6)
    assert choice.plan == Plan("after")
    assert set(choice.figures) == {"after"}


def test_a_cut_is_not_taken_for_luck() -> None:
    """The score says nothing, so no cut can help; one of nineteen looks good on the rows themselves."""
    ways = [choose_at(_rows(count=300, by_score=0.0, by_confidence=2.0, seed=seed), 0.6).plan.way for seed in range(20)]
    assert ways.count("after") >= 19


def test_a_cut_is_taken_only_if_other_rows_can_cost_as_little() -> None:
    rows = _rows(count=400, by_score=2.0, by_confidence=2.0)
    assert rows.score is not None
    plan = Plan("both", float(np.median(rows.score)))
    least = float(curve(rows, plan).cost[0][-1])
    assert curve(rows, plan).reaches(least)
    assert not surely_reaches(rows, plan, least)
    # Half of the rows skip, each for 0.9 more: the error of their share is 0.5 / √400.
    assert surely_reaches(rows, plan, least + 0.9 * 2 * 0.025)
    assert surely_reaches(rows, Plan("after"), 0.1)


def test_the_choice_is_hardly_worse_than_the_better_way_on_other_rows() -> None:
    worse = []
    for seed in range(20):
        knows: dict[str, Any] = {"by_score": 0.2 * seed, "by_confidence": 2.0}
        choice = choose_at(_rows(count=500, **knows, seed=seed), 0.64)
        others = _rows(count=20_000, **knows, seed=1000 + seed)
        drops = [curve(others, plan).drop_at(0.64)[0] for plan in (choice.plan, Plan("before"), Plan("after"))]
        worse.append(drops[0] - min(drops[1:]))
    assert max(worse) < 1.5
    assert np.mean(worse) < 0.2


@pytest.mark.parametrize(
    ("noisy", "steady", "error", "estimate"),
    [(3.0, 1.0, 2.0, 1.0), (3.0, 1.0, 5.0, 1.0), (3.0, 1.0, 1.0, 2.5), (-3.0, 1.0, 1.0, -2.75), (2.0, 2.0, 0.0, 2.0)],
)
def test_a_noisy_estimate_counts_as_far_as_chance_does_not_explain_it(
    noisy: float, steady: float, error: float, estimate: float
) -> None:
    assert shrunk(noisy, steady, error) == pytest.approx(estimate)


def test_what_the_confidence_does_not_see_of_the_score_is_seen_with_many_rows() -> None:
    rows = _rows(count=2_000, by_score=2.0, by_confidence=0.0)
    cost = rows.cost_of_share(0.4)

    def smoothed_drop(way: Way, by_score: bool) -> float:
        return float(curve(rows.smoothed(by_score), Plan(way)).drop_at(cost)[0])

    assert smoothed_drop("before", False) == pytest.approx(smoothed_drop("after", False), abs=5.0)
    own = curve(rows, Plan("before")).drop_at(cost)[0]
    assert smoothed_drop("before", True) == pytest.approx(own, abs=2.0)
    assert smoothed_drop("before", False) > own + 5.0
    choice = choose_at(rows, cost)
    assert choice.plan == Plan("before")
    assert choice.figures["after"] - choice.figures["before"] > 5.0


def test_rows_smoothed_without_a_score_are_smoothed_by_the_confidence() -> None:
    rows = replace(_rows(count=100, by_score=1.0, by_confidence=1.0), score=None)
    assert np.array_equal(rows.smoothed(True).small, rows.smoothed(False).small)


def test_a_resample_counts_a_prompt_that_is_drawn_twice_twice() -> None:
    rows = _rows(count=50, by_score=1.0, by_confidence=1.0)
    resampled = rows.resampled(np.random.default_rng(0))
    assert len(np.unique(resampled.group)) == len(resampled) == 50
    assert len(np.unique(resampled.confidence)) < 40


def test_points_hold_no_row_that_skips() -> None:
    rows = _rows(count=200, by_score=1.0, by_confidence=1.0)
    assert rows.score is not None
    cut = float(np.median(rows.score))
    points = points_by(rows, Plan("both", cut))
    assert points[-1].cost_advantage == pytest.approx(float((rows.score >= np.float32(cut)).mean()))
    assert all(point.threshold >= 0.0 for point in points)


def test_ways_that_are_compared_share_the_chance_to_break_the_limit() -> None:
    assert bounds_among(1) == pytest.approx(0.95)
    assert bounds_among(3) == pytest.approx(1 - 0.05 / 3)
    rows = _rows(count=300, by_score=1.0, by_confidence=1.0)
    alone, among_three = (points_by(rows, Plan("after"), confidence=bounds_among(ways)) for ways in (1, 3))
    assert [point.drop for point in alone] == [point.drop for point in among_three]
    assert all(one.bound < three.bound for one, three in zip(alone, among_three, strict=True))
