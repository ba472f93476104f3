from __future__ import annotations

import numpy as np
import pytest

from batchroute.costs.prices import PICO, Price
from batchroute.policy.expected_costs import model_costs
from batchroute.router.calibration.lengths import Lengths, Line

TOKENS = np.array([10, 100], np.int32)
LENGTHS = Lengths(
    prompts=50, input=Line(base=20, per_token=1.5), output=Line(base=5, per_token=0.5, error=0.1, spread=4)
)


def test_a_row_costs_what_it_is_expected_to_read_and_write() -> None:
    costs = model_costs(Price(input="0.5", output="2"), LENGTHS, TOKENS, 1_000)
    assert costs is not None
    # 35 and 170 tokens read, 10 and 55 written; prices are pico-dollars for a millionth of a million.
    assert costs.picos.tolist() == [35 * 500_000 + 10 * 2_000_000, 170 * 500_000 + 55 * 2_000_000]
    assert costs.least.tolist() == [35 * 500_000, 170 * 500_000]
    assert (costs.error, costs.spread, costs.measured) == (200_000.0, 8_000_000.0, True)


def test_no_response_is_longer_than_allowed() -> None:
    costs = model_costs(Price(input=0, output=1), LENGTHS, TOKENS, 20)
    assert costs is not None
    assert costs.picos.tolist() == [10 * 10**6, 20 * 10**6]


def test_a_price_by_time_needs_the_time_of_a_token() -> None:
    price = Price(gpu_hour="3.60")
    assert model_costs(price, LENGTHS, TOKENS, 1_000) is None
    costs = model_costs(price, LENGTHS.model_copy(update={"seconds_per_token": 0.01}), TOKENS, 1_000)
    assert costs is not None
    assert costs.picos / PICO == pytest.approx([45 * 0.01 * 0.001, 225 * 0.01 * 0.001])


def test_without_a_price_costs_are_unknown() -> None:
    assert model_costs(None, LENGTHS, TOKENS, 1_000) is None


def test_lengths_that_were_not_measured_are_an_upper_bound() -> None:
    costs = model_costs(Price(input=1, output=1), Lengths.at_most(64), TOKENS, 64)
    assert costs is not None
    assert not costs.measured
    assert costs.picos.tolist() == [74 * 10**6, 164 * 10**6]
