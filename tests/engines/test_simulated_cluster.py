"""Who gets which unit, on 64 workers in simulated time: by the code that runs, see the benchmark of this name."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.simulated_cluster import MEAN_SECONDS, START_UP, Night, Scenario, measure, ranks, ray

NIGHTS = 8


@pytest.mark.parametrize(("units", "at_most"), [(8, 1.45), (32, 1.15)])
def test_workers_that_take_units_from_a_counter_end_together(units: int, at_most: float) -> None:
    ends = measure(Scenario(units, sigma=0.5), NIGHTS)
    assert np.array_equal(ends["ranks"], ends["ray"])
    assert (ends["ranks"] < ends["static"]).all()
    assert ends["ranks"].min() > 1
    assert ends["ranks"].max() < at_most


def test_slow_workers_hold_up_nobody_but_in_static_slices() -> None:
    even, uneven = (measure(Scenario(32, 0.5, share), NIGHTS) for share in (0.0, 0.1))
    for rule in ("ranks", "ray"):
        assert np.median(uneven[rule]) < np.median(even[rule]) + 0.05
    assert np.median(uneven["static"]) > np.median(even["static"]) + 0.5


def test_a_death_costs_ranks_the_units_in_hand_and_a_ray_cluster_one() -> None:
    scenario = Scenario(32, sigma=0.5, die=1 / 64)
    lost: dict[str, list[float]] = {"ranks": [], "ray": []}
    for seed in range(NIGHTS):
        night = Night.of(scenario, np.random.default_rng(seed))
        calm = Night(night.seconds, night.speeds, np.full_like(night.deaths, np.inf))
        for rule, ends in (("ranks", ranks), ("ray", ray)):
            lost[rule].append(ends(night) - ends(calm))
    assert START_UP < np.median(lost["ranks"]) < START_UP + 1.5 * MEAN_SECONDS
    assert np.median(lost["ray"]) < MEAN_SECONDS / 4


def test_many_deaths_lose_no_unit_and_repeat_none() -> None:
    ends = measure(Scenario(4, sigma=1.0, slow=0.2, die=0.25, workers=16), NIGHTS)
    assert all((ends[rule] > 1).all() for rule in ("ranks", "ray", "static"))
