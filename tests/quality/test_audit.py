"""The audit: settings, what is drawn, what the drop is, and how often its interval holds the truth."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from batchroute import quality
from batchroute.quality import drop
from batchroute.quality.audit import AuditSpec
from batchroute.quality.base import MetricSpec
from tests.benchmarks import audit_coverage

Floats = NDArray[np.float64]


def stratum(rows: int, small: list[float], large: list[float]) -> drop.Stratum:
    return drop.Stratum(rows, np.array(small, np.float64), np.array(large, np.float64))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class TestSettings:
    @pytest.mark.parametrize("share", ["2%", 0.02, "0.02", {"share": "2%"}])
    def test_a_share_alone_is_an_audit(self, share: object) -> None:
        assert AuditSpec.model_validate(share) == AuditSpec(share=Decimal("0.02"), metric=None, reference=None, seed=0)

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("0", "greater than 0"),
            ("120%", "less than or equal to 1"),
            ("some", "must be a share such as"),
            (None, "should be an"),
        ],
    )
    def test_what_is_no_share_of_rows_is_refused(self, value: object, words: str) -> None:
        with pytest.raises(ValidationError, match=words):
            AuditSpec.model_validate(value)

    @pytest.mark.parametrize(
        "spec",
        [
            MetricSpec(name="chrf"),
            MetricSpec(name="embedding", model="embedded:all-minilm-l6-v2"),
            MetricSpec(name="embedding", model="/models/a (b), c"),
            MetricSpec(name="bartscore"),
            MetricSpec(name="likelihood", model="some/model (large)", direction="both"),
        ],
    )
    def test_a_metric_is_known_again_by_its_description(self, spec: MetricSpec) -> None:
        assert quality.named(quality.describe(spec)) == spec

    @pytest.mark.parametrize(
        "words", ["judge (gpt-4)", "simulated", "chrf (model)", "embedding", "", "a metric of ours"]
    )
    def test_what_describes_no_metric_that_can_be_loaded_names_none(self, words: str) -> None:
        assert quality.named(words) is None


class TestDraw:
    @pytest.mark.parametrize(
        ("count", "rows", "strata"),
        [(1000, 100, 10), (29, 25, 10), (28, 27, 10), (7, 7, 3), (1000, 2, 1), (1000, 11, 5), (2, 2, 1), (1, 1, 1)],
    )
    def test_as_many_rows_as_asked_for_come_evenly_from_parts_by_score(
        self, count: int, rows: int, strata: int
    ) -> None:
        scores = generator(1).random(count).astype(np.float32)
        drawn = drop.draw(scores, rows, generator())
        assert (len(drawn), sum(one.rows for one in drawn), sum(len(one.indices) for one in drawn)) == (
            strata, count, rows,
        )  # fmt: skip
        ranks = np.argsort(np.argsort(scores))
        ends = np.cumsum([one.rows for one in drawn])
        for one, end in zip(drawn, ends, strict=True):
            assert ranks[one.last] == end - 1
            assert len(set(one.indices.tolist())) == len(one.indices)
            assert all(end - one.rows <= rank < end for rank in ranks[one.indices])
            assert abs(len(one.indices) - rows * one.rows / count) < 1

    def test_every_row_is_as_likely_as_any_other(self) -> None:
        scores = generator(1).random(40).astype(np.float32)
        taken = np.zeros(40)
        for seed in range(2000):
            for one in drop.draw(scores, 10, generator(seed)):
                taken[one.indices] += 1
        assert np.abs(taken / 2000 - 0.25).max() < 0.05

    def test_nothing_is_drawn_from_nothing(self) -> None:
        assert drop.draw(np.empty(0, np.float32), 0, generator()) == []


class TestEstimate:
    def test_the_drop_is_of_all_rows_and_relative_to_the_large_models_mean(self) -> None:
        # A stratum of 60 rows loses 0.5 each, one of 20 loses nothing; 120 rows of the large model have 0.6.
        strata = [stratum(60, [0.5, 0.5], [1.0, 1.0]), stratum(20, [0.8, 0.8], [0.8, 0.8])]
        estimate = drop.estimate(strata, np.full(5, 0.6), 120)
        assert estimate.small == pytest.approx(0.575)
        assert estimate.large == pytest.approx(0.95)
        assert estimate.as_good == pytest.approx(0.25)
        assert estimate.drop == pytest.approx(100 * (60 * 0.5 / 200) / ((76 + 72) / 200))

    def test_qualities_below_zero_have_a_drop_of_the_same_sign(self) -> None:
        estimate = drop.estimate([stratum(10, [-3.5, -3.0], [-3.0, -2.5])], np.empty(0), 0)
        assert estimate.drop == pytest.approx(100 * 0.5 / 2.75)

    def test_when_all_rows_are_measured_nothing_is_left_to_chance(self) -> None:
        estimate = drop.estimate([stratum(4, [1, 0, 1, 1], [1, 1, 1, 1])], np.array([1.0, 0.0]), 2)
        assert estimate.low == estimate.drop == estimate.high == pytest.approx(100 * (1 / 6) / (5 / 6))

    def test_all_small_rows_measured_leave_the_chance_of_the_others_mean(self) -> None:
        estimate = drop.estimate([stratum(4, [1, 0, 1, 1], [1, 1, 1, 1])], np.array([1.0, 0.0, 1.0]), 100)
        assert estimate.low is not None
        assert estimate.drop is not None
        assert estimate.low < estimate.drop

    @pytest.mark.parametrize("quality", [1.0, -2.0])
    def test_where_no_loss_was_seen_one_is_still_possible(self, quality: float) -> None:
        same = [quality] * 50
        estimate = drop.estimate([stratum(500, same, same), stratum(500, same, same)], np.empty(0), 0)
        assert estimate.drop == 0
        assert estimate.low is not None
        assert estimate.high is not None
        # The rule of three: with no loss in 100 rows up to 3 % may lose.
        assert 2.5 < estimate.high < 4
        assert estimate.low == -estimate.high

    @pytest.mark.parametrize(
        ("strata", "large", "rows"),
        [
            ([], [], 0),
            ([stratum(10, [], [])], [0.5, 0.5], 10),
            ([stratum(10, [1.0], [1.0]), stratum(10, [], [])], [0.5, 0.5], 10),
        ],
    )
    def test_fewer_than_two_rows_tell_nothing(self, strata: list[drop.Stratum], large: list[float], rows: int) -> None:
        assert drop.estimate(strata, np.array(large), rows) == drop.Estimate()

    @pytest.mark.parametrize("large", [[], [0.5]])
    def test_without_the_large_models_mean_there_is_no_drop(self, large: list[float]) -> None:
        estimate = drop.estimate([stratum(10, [0.5, 0.5], [1.0, 1.0])], np.array(large), 10)
        assert (estimate.small, estimate.large, estimate.drop) == (0.5, 1.0, None)

    def test_a_mean_of_zero_has_no_drop(self) -> None:
        estimate = drop.estimate([stratum(10, [0.0, 0.0], [0.0, 0.0])], np.zeros(3), 10)
        assert (estimate.small, estimate.drop, estimate.low, estimate.high) == (0.0, None, None, None)

    def test_strata_of_which_too_little_was_measured_join_their_neighbours(self) -> None:
        parts = [stratum(10, [], []), stratum(10, [0], [1]), stratum(10, [1, 1], [1, 1]), stratum(10, [1], [1])]
        estimate = drop.estimate(parts, np.empty(0), 0)
        together = drop.estimate([stratum(40, [0, 1, 1, 1], [1, 1, 1, 1])], np.empty(0), 0)
        assert estimate.drop == together.drop
        assert estimate.drop == pytest.approx(25)

    def test_the_interval_gets_narrower_with_the_rows_as_students_does(self) -> None:
        rng = generator()
        widths = []
        for rows in (100, 400):
            large = rng.normal(0.6, 0.1, rows)
            estimate = drop.estimate([drop.Stratum(10**6, large - rng.normal(0.1, 0.1, rows), large)], large, 10**6)
            assert estimate.high is not None
            assert estimate.low is not None
            widths.append(estimate.high - estimate.low)
        assert widths[0] / widths[1] == pytest.approx(2, rel=0.15)

    def test_students_quantiles_are_those_of_the_tables(self) -> None:
        for freedom, quantile in ((1, 12.706), (9, 2.262), (10, 2.228), (30, 2.042), (120, 1.980), (10**6, 1.960)):
            assert math.isclose(drop._student(freedom), quantile, abs_tol=0.001)


def test_the_true_drop_lies_in_at_least_93_of_100_intervals() -> None:
    """A small version of `audit_coverage`, which has more nights and repetitions."""
    nights = [("0/1, 1 % lost", 20_000), ("0/1, lost by score", 5_000), ("0/1, lost and gained", 20_000)]
    nights += [("[0, 1], lost", 2_000), ("[0, 1], 2 % lost", 20_000), ("below 0, lost by score", 20_000)]
    coverages = []
    for number, (kind, rows) in enumerate(nights):
        rng = generator(number)
        night = audit_coverage.night(kind, rows, 0.8, rng)
        coverages += [audit_coverage.coverage(night, size, 300, rng)[0] for size in (30, 100)]
    assert min(coverages) >= 0.92
    assert np.mean(coverages) >= 0.93
