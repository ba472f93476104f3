"""What rows cost, by prices and by a ratio."""

from __future__ import annotations

from typing import Any

import pytest

from batchroute.confidence.calibration import AnsweredRows
from batchroute.confidence.pricing import by_price, by_ratio
from batchroute.costs.prices import Price
from batchroute.errors import InputError
from batchroute.fields import Side

PRICES: dict[Side, Price] = {
    "small": Price.model_validate({"input": 1, "output": 2}),
    "large": Price.model_validate({"input": 10, "output": 20}),
}


def answered(**more: Any) -> AnsweredRows:
    known: dict[str, Any] = {"confidence": [0.1, 0.9], "small": [0, 1], "large": [1, 1], "group": [4, 9], "score": None}
    known |= {"small_tokens": ([100, 200], [10, 20]), "large_tokens": ([100, 200], [30, 40])}
    return AnsweredRows.model_validate(known | more)


def test_tokens_by_their_prices() -> None:
    rows = by_price(answered(sample_tokens=([0, 0], [50, 50])), PRICES, {})
    assert rows.small_cost * 1e6 == pytest.approx([120, 240])
    assert rows.signal_cost * 1e6 == pytest.approx([100, 100])
    assert rows.large_cost * 1e6 == pytest.approx([1600, 2800])
    assert rows.group.tolist() == [0, 1]


def test_a_model_that_is_priced_by_time_costs_its_seconds() -> None:
    prices: dict[Side, Price] = {**PRICES, "large": Price.model_validate({"gpu_hour": 3.6})}
    assert by_price(answered(), prices, {"large": 0.01}).large_cost == pytest.approx([0.0013, 0.0024])
    with pytest.raises(InputError, match="does not say how long a token takes"):
        by_price(answered(), prices, {})


def test_prices_need_tokens() -> None:
    with pytest.raises(InputError, match="no tokens of the large model"):
        by_price(answered(large_tokens=None), PRICES, {})


def test_a_ratio_holds_for_all_rows_and_samples_cost_in_proportion() -> None:
    rows = by_ratio(answered(sample_tokens=([0, 0], [660, 0])), 0.2)
    assert rows.small_cost.tolist() == [0.2, 0.2]
    assert rows.signal_cost.tolist() == pytest.approx([0.4, 0.4])
    assert rows.large_cost.tolist() == [1.0, 1.0]
