from __future__ import annotations

import numpy as np
import pytest

from batchroute.router.drift.statistics import (
    bins,
    chi_square_tail,
    ks,
    ks_p_value,
    psi,
    psi_by_chance,
    shares_p_value,
)


@pytest.mark.parametrize(
    ("statistic", "freedom", "chance"),
    [
        (3.841, 1, 0.05),
        (5.991, 2, 0.05),
        (21.666, 9, 0.01),
        (18.307, 10, 0.05),
        (27.877, 9, 0.001),
        (124.342, 100, 0.05),
    ],
)
def test_the_chi_square_distribution_is_that_of_the_tables(statistic: float, freedom: int, chance: float) -> None:
    assert chi_square_tail(statistic, freedom) == pytest.approx(chance, rel=2e-3)
    assert chi_square_tail(0.0, freedom) == 1.0
    assert chi_square_tail(1e6, freedom) == 0.0


@pytest.mark.parametrize(("size", "chance"), [(1.224, 0.1), (1.358, 0.05), (1.628, 0.01), (1.949, 0.001)])
def test_kolmogorovs_distribution_is_that_of_the_tables(size: float, chance: float) -> None:
    rows = 2_000_000
    assert ks_p_value(size / (rows / 2) ** 0.5, rows, rows) == pytest.approx(chance, rel=5e-3)


def test_the_distance_of_two_samples_is_the_largest_between_their_steps() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        ours, theirs = rng.integers(0, 9, 30), rng.integers(2, 12, 40)
        values = np.arange(13)
        expected = np.abs([(ours <= value).mean() - (theirs <= value).mean() for value in values]).max()
        assert ks(np.sort(ours), np.sort(theirs)) == pytest.approx(expected)


def test_psi_is_the_sum_of_its_definition_and_finite_for_an_empty_category() -> None:
    found, reference = np.array([300_000, 700_000]), np.array([500_000, 500_000])
    assert psi(found, reference) == pytest.approx(-0.2 * np.log(0.3 / 0.5) + 0.2 * np.log(0.7 / 0.5), abs=1e-5)
    assert 1.0 < psi(np.array([0, 1_000]), np.array([500, 500])) < 10.0


def test_by_chance_psi_is_what_it_is_on_average() -> None:
    rng = np.random.default_rng(1)
    shares = np.full(10, 0.1)
    pairs = [(rng.multinomial(200, shares), rng.multinomial(800, shares)) for _ in range(400)]
    assert np.mean([psi(*pair) for pair in pairs]) == pytest.approx(psi_by_chance(*pairs[0]), rel=0.1)


@pytest.mark.parametrize("shares", [[0.5, 0.3, 0.2], [0.97, 0.02, 0.01]])
def test_shares_of_one_distribution_differ_by_chance_as_often_as_is_said(shares: list[float]) -> None:
    # The second has categories that are too rare for the chi-square distribution.
    rng = np.random.default_rng(2)
    chances = [shares_p_value(rng.multinomial(80, shares), rng.multinomial(400, shares)) for _ in range(300)]
    assert 0.005 < np.mean(np.array(chances) < 0.05) < 0.1


def test_a_rare_category_that_was_never_there_is_no_chance() -> None:
    assert shares_p_value(np.array([56, 8]), np.array([800, 0])) < 1e-3
    assert shares_p_value(np.array([63, 1]), np.array([800, 0])) > 0.05
    assert shares_p_value(np.array([64, 0]), np.array([800, 0])) == 1.0


def test_bins_hold_the_tenth_parts_of_the_reference_and_all_rows() -> None:
    ours, theirs = bins(np.sort(np.arange(100) % 7), np.arange(1000))
    assert theirs.tolist() == [100] * 10
    assert ours.tolist() == [100] + [0] * 9
    # Equal values stay together, and few rows make few bins.
    assert bins(np.zeros(50), np.concatenate([np.zeros(900), np.ones(100)]))[1].sum() == 1000
    assert len(bins(np.arange(11), np.arange(1000))[0]) == 2
