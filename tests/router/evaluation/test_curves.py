from __future__ import annotations

import numpy as np
import pytest

from batchroute.router.evaluation.curves import (
    SHARES,
    MeanQualities,
    curves,
    interval,
    oracle_curves,
    pearson,
    random_curves,
    ranks,
)

# By score: losses of 0, 1, −1, 2; means 2 large, 1.5 small.
SCORES = np.array([0.2, 0.9, 0.4, 0.7])
LARGE = np.array([3.0, 1.0, 1.0, 3.0])
SMALL = np.array([1.0, 1.0, 2.0, 2.0])
ROWS = MeanQualities.of(SMALL, LARGE, ["a", "b", "c", "d"])
ONCE = ROWS.draws(1, seed=0)


def simulated(rows: int, seed: int) -> tuple[np.ndarray, MeanQualities]:
    rng = np.random.default_rng(seed)
    scores = rng.random(rows)
    large = (rng.random(rows) < 0.7).astype(float)
    small = np.where(rng.random(rows) < scores, large, 0.0)
    return scores, MeanQualities.of(small, large, [f"prompt {row}" for row in range(rows)])


def test_a_curve_goes_through_the_drop_at_every_row() -> None:
    routed = curves(SCORES, ROWS)
    assert [routed.drop_at(share)[0] for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0, 0, 12.5, 0, 25])
    # Half way between two rows the next one is half sent.
    assert routed.drop[0, 375] == pytest.approx(6.25)


def test_the_drop_of_negative_qualities_is_a_share_of_their_size() -> None:
    negative = MeanQualities(SMALL - 5, LARGE - 5, ROWS.group)
    assert curves(SCORES, negative).drop_at(1.0)[0] == pytest.approx(100 * 0.5 / 3)


def test_the_order_of_rows_of_equal_scores_does_not_matter() -> None:
    tied, order = np.array([0.2, 0.9, 0.9, 0.9]), [3, 1, 0, 2]
    other = MeanQualities(SMALL[order], LARGE[order], ROWS.group)
    assert curves(tied, ROWS).loss == pytest.approx(curves(tied[order], other).loss)


def test_rows_of_equal_scores_go_in_parts() -> None:
    tied = np.array([0.2, 0.9, 0.9, 0.9])
    routed = curves(tied, ROWS, ONCE)
    # The three lose 1 − 1 + 0 together: nothing on average.
    assert routed.loss[0, :751] == pytest.approx(np.zeros(751))
    assert curves(np.zeros(4), ROWS, ONCE).loss[0] == pytest.approx(SHARES * 0.5)
    assert random_curves(ROWS, ONCE).loss[0] == pytest.approx(SHARES * 0.5)


def test_perfect_routing_is_at_least_as_good_everywhere() -> None:
    scores, rows = simulated(300, 0)
    draws = rows.draws(20, seed=0)
    best = oracle_curves(rows, draws)
    assert (best.loss <= curves(scores, rows, draws).loss + 1e-12).all()
    assert oracle_curves(ROWS, ONCE).drop[0, [250, 500, 750]] == pytest.approx([-12.5, -12.5, 0.0])


def test_the_gap_difference_is_that_of_the_two_parts() -> None:
    routed = curves(SCORES, ROWS, ONCE)
    gaps = (SMALL - LARGE)[np.argsort(-SCORES)]
    assert routed.gap_difference(0.25)[0] == pytest.approx(gaps[:1].mean() - gaps[1:].mean())
    assert routed.gap_difference(0.5)[0] == pytest.approx(gaps[:2].mean() - gaps[2:].mean())


def test_the_largest_share_within_a_limit_may_lie_between_rows() -> None:
    routed = curves(SCORES, ROWS, ONCE)
    # From 0 at 75 % to 25 % at all rows: 5 % at 80 %.
    assert routed.share_within(5.0)[0] == pytest.approx(0.8)
    assert routed.share_within(25.0)[0] == 1.0


def test_routellms_measures_by_hand() -> None:
    # All four rows lose 1 on small; with one loss after the other the recovered part falls from 1 to 0 evenly.
    even = MeanQualities.of(np.zeros(4), np.ones(4), list("abcd"))
    line = curves(SCORES, even, even.draws(1, seed=0))
    assert line.apgr()[0] == pytest.approx(0.5)
    assert (line.large_share_for(0.5)[0], line.large_share_for(0.8)[0]) == pytest.approx((0.5, 0.8))
    # Only the row of the lowest score loses: all others can go to small at no loss.
    one = MeanQualities.of(np.array([0.0, 1.0, 1.0, 1.0]), np.ones(4), list("abcd"))
    routed = curves(SCORES, one, one.draws(1, seed=0))
    assert routed.apgr()[0] == pytest.approx(0.875, abs=1e-3)
    assert routed.large_share_for(0.8)[0] == pytest.approx(0.2)
    # A large model that is no better recovers nothing.
    assert np.isnan(curves(SCORES, MeanQualities.of(LARGE, SMALL, list("abcd")), ONCE).apgr()[0])


def test_correlations_are_pearsons_and_of_ranks_spearmans() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(size=50)
    once = MeanQualities.of(a, b, [str(i) for i in range(50)]).draws(1, seed=0)
    assert pearson(a, b, once)[0] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert ranks(np.array([0.3, 0.1, 0.3, 0.2])).tolist() == [3.5, 1.0, 3.5, 2.0]
    # d² = 0, 1, 1, 0 of four: 1 − 6 · 2 / (4 · 15).
    first, second = ranks(np.array([1.0, 2, 3, 4])), ranks(np.array([1.0, 3, 2, 4]))
    assert pearson(first, second, ONCE)[0] == pytest.approx(0.8)
    assert np.isnan(pearson(np.ones(4), first, ONCE)[0])


def test_resamples_draw_prompts_with_all_their_rows() -> None:
    rows = MeanQualities.of(np.zeros(6), np.ones(6), ["a", "b", "a", "c", "a", "b"])
    draws = rows.draws(200, seed=0)
    assert (draws[0] == 1).all()
    assert (draws[:, [0, 0, 1]] == draws[:, [2, 4, 5]]).all()
    assert (draws[1:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(draws[1:, 0])) > 2


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    scores, rows = simulated(200_000, seed=99)
    truth = curves(scores, rows, rows.draws(0, seed=0)).drop[0, 400]
    held = 0
    for seed in range(100):
        scores, rows = simulated(300, seed)
        low, high = interval(curves(scores, rows, rows.draws(200, seed=seed)).drop[1:, 400])
        held += low <= truth <= high
    assert 88 <= held <= 99
