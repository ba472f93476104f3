from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from batchroute.costs.prices import PICO
from batchroute.policy.expected_costs import ModelCosts
from batchroute.policy.outlook import Outlook, gains_of
from batchroute.policy.settings import Rule
from batchroute.router.calibration.gain import Gain
from batchroute.router.calibration.points import Calibration, Point

ROWS = 1_000
RNG = np.random.default_rng(0)
SCORES = RNG.uniform(size=ROWS).astype(np.float32)
TOKENS = RNG.integers(10, 200, ROWS).astype(np.int32)


def costs(dollars: float, **values: Any) -> ModelCosts:
    """Of a model that costs so much for each thousand rows."""
    picos = np.full(ROWS, round(dollars * PICO / ROWS), np.int64)
    return ModelCosts(**{"picos": picos, "error": 0.0, "spread": 0.0, "measured": True, "least": picos // 2, **values})


def calibration() -> Calibration:
    """A router whose rows lose the square of their share, from 0 % to 10 %."""
    points = [
        Point(
            threshold=1 - s, cost_advantage=s, drop=10 * s**2, drop_low=9 * s**2, drop_high=12 * s**2, bound=11 * s**2
        )
        for s in np.arange(1, 101) / 100
    ]
    gain = Gain(base=0.2, by_score=-0.2, by_length=0.0, large_mean=1.0, large_is_better=True)
    return Calibration(
        table_sha256="", rows=800, prompts=800, models={}, metric=None, max_length=128, confidence=0.95,
        points=points, gain=gain,
    )  # fmt: skip


def view(**values: Any) -> Outlook:
    known = calibration()
    settings = {
        "scores": SCORES,
        "routable": np.ones(ROWS, bool),
        "gains": gains_of(SCORES, TOKENS, known),
        "costs": {"small": costs(1), "large": costs(11)},
        "calibration": known,
        "spent": PICO // 2,
        "whole": ROWS,
    }
    return Outlook(**{**settings, **values})


def test_a_forecast_adds_up_costs_and_reads_the_drop_off_the_calibration() -> None:
    forecast = view().of(Rule.model_validate({"small_share": "40%"}))
    assert (forecast.rows, forecast.small, forecast.small_share) == (1_000, 400, 0.4)
    assert forecast.cost is not None
    assert forecast.cost.value == pytest.approx(0.5 + 0.4 + 0.6 * 11)
    assert forecast.cost.low == forecast.cost.high == forecast.cost.value
    # All rows on large need no router.
    assert forecast.savings == pytest.approx(11.0 - 7.5)
    assert forecast.savings_share == pytest.approx(3.5 / 11.0)
    assert forecast.drop is not None
    assert (forecast.drop.value, forecast.drop.low, forecast.drop.high) == pytest.approx((1.6, 1.44, 1.92))


def test_rows_that_are_not_the_easiest_lose_more_by_what_they_gain_on_large() -> None:
    outlook = view()
    hardest = np.zeros(ROWS, bool)
    hardest[outlook.easiest[-400:]] = True
    easy, hard = outlook.of(Rule.model_validate({"small_share": "40%"})), outlook.forecast(hardest, "hardest")
    assert easy.drop is not None
    assert hard.drop is not None
    gains = outlook.gains[outlook.easiest]
    assert hard.drop.value - easy.drop.value == pytest.approx(100 * (gains[-400:].sum() - gains[:400].sum()) / ROWS)


def test_a_sample_stands_for_all_rows_and_its_range_is_wider() -> None:
    uneven = costs(11, picos=RNG.integers(1, 2 * 11 * PICO // ROWS, ROWS))
    whole = view(costs={"small": costs(1), "large": uneven})
    sample = view(costs={"small": costs(1), "large": uneven}, whole=100 * ROWS)
    rule = Rule.model_validate({"small_share": "40%"})
    few, many = whole.of(rule), sample.of(rule)
    assert (many.rows, many.small) == (100 * few.rows, 100 * few.small)
    assert few.cost is not None
    assert many.cost is not None
    assert many.cost.value - 0.5 == pytest.approx(100 * (few.cost.value - 0.5))
    assert many.cost.low < many.cost.value < many.cost.high
    assert few.cost.high == few.cost.value


def test_the_error_of_measured_lengths_does_not_shrink_with_the_rows_and_their_spread_does() -> None:
    rule = Rule.model_validate({"small_share": 0})
    by_error = view(costs={"small": costs(1), "large": costs(11, error=PICO / 10**4)}).of(rule).cost
    by_spread = view(costs={"small": costs(1), "large": costs(11, spread=PICO / 10**4)}).of(rule).cost
    assert by_error is not None
    assert by_spread is not None
    assert by_error.high - by_error.value == pytest.approx(1.96 * 1_000 / 10**4)
    assert by_spread.high - by_spread.value == pytest.approx(1.96 * 1_000**0.5 / 10**4)


def test_lengths_that_were_not_measured_reach_down_to_no_response_at_all() -> None:
    forecast = view(costs={"small": costs(1), "large": costs(11, measured=False)}).of(
        Rule.model_validate({"small_share": 0})
    )
    assert forecast.cost is not None
    assert forecast.cost.low == pytest.approx(0.5 + 5.5)
    assert forecast.cost.high == forecast.cost.value


def test_unknown_figures_are_none() -> None:
    nothing = view(costs={"small": None, "large": costs(11)}, calibration=None, gains=1.0 - SCORES)
    forecast = nothing.of(Rule.model_validate({"small_share": "40%"}))
    assert (forecast.cost, forecast.savings, forecast.savings_share, forecast.drop) == (None, None, None, None)
    curve = nothing.curve()
    assert curve is not None
    assert (curve.cost, curve.drop) == (None, None)
    assert view(routable=np.zeros(ROWS, bool)).curve() is None


def test_the_curve_goes_from_all_on_large_to_all_on_small() -> None:
    curve = view().curve()
    assert curve is not None
    assert curve.small_share == pytest.approx(np.arange(21) / 20)
    assert curve.cost is not None
    assert (curve.cost[0], curve.cost[-1]) == pytest.approx((11.5, 1.5))
    assert curve.drop is not None
    assert (curve.drop[0], curve.drop[10], curve.drop[-1]) == pytest.approx((0.0, 2.5, 10.0), abs=1e-9)
