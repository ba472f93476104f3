from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from batchroute.costs.prices import COST, PICO, Price, split, usd, usd_column

TOKENS = st.integers(0, 10**10)
MICROS = st.integers(0, 10**9)


def price(**values: object) -> Price:
    return Price.model_validate(values)


@pytest.mark.parametrize("amount", [0.15, "0.15", Decimal("0.15")])
def test_a_price_is_the_number_that_was_written(amount: object) -> None:
    assert price(input=amount, output=0).input == Decimal("0.15")


def test_a_million_tokens_cost_the_price() -> None:
    both = price(input=0.5, output=1.5)
    assert usd(both.of_tokens(10**6, 0)) == Decimal("0.5")
    assert usd(both.of_tokens(0, 10**6)) == Decimal("1.5")
    assert usd(both.of_tokens(1, 1)) == Decimal("0.000002")


@given(MICROS, MICROS, TOKENS, TOKENS)
def test_the_cost_of_tokens_is_exact(read: int, written: int, input_tokens: int, output_tokens: int) -> None:
    both = price(input=Decimal(read).scaleb(-6), output=Decimal(written).scaleb(-6))
    pico = both.of_tokens(input_tokens, output_tokens)
    exact = Fraction(read, 10**6) * input_tokens / 10**6 + Fraction(written, 10**6) * output_tokens / 10**6
    assert Fraction(pico, PICO) == exact
    assert Fraction(usd(pico)) == exact


@given(st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 10**5)), max_size=20))
def test_the_costs_of_rows_add_up_to_the_cost_of_all(rows: list[tuple[int, int]]) -> None:
    both = price(input="0.15", output="0.6")
    assert sum(both.of_tokens(*row) for row in rows) == both.of_tokens(sum(r[0] for r in rows), sum(r[1] for r in rows))


@pytest.mark.parametrize(
    ("seconds", "pico"), [(0, 0), (3600, 21 * 10**11), (1, 583_333_333), (0.5, 291_666_666), (1e-9, 0)]
)
def test_time_costs_its_part_of_an_hour_rounded_down(seconds: float, pico: int) -> None:
    assert price(gpu_hour=2.10).of_seconds(seconds) == pico


def test_a_year_of_a_dear_machine_is_exact() -> None:
    assert usd(price(gpu_hour="99.999999").of_seconds(365 * 24 * 3600.0)) == Decimal("99.999999") * 365 * 24


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_the_parts_of_an_amount_add_up_to_it_and_follow_the_weights(total: int, weights: list[int]) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    assert len(parts) == len(weights)
    whole = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        exact = Fraction(total * weight, whole) if whole else Fraction(total, len(weights))
        assert part >= 0
        assert abs(part - exact) < 1


def test_a_weight_of_zero_gets_nothing_unless_all_are_zero() -> None:
    assert split(10, [0, 1, 0]) == [0, 10, 0]
    assert split(10, [0, 0, 0]) == [3, 3, 4]
    assert split(0, []) == []


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"input": 1},
        {"output": 1},
        {"input": 1, "output": 1, "gpu_hour": 1},
        {"input": 1, "gpu_hour": 1},
        {"gpu_hour": -1},
        {"gpu_hour": "0.0000001"},
        {"gpu_hour": float("nan")},
        {"gpu_hour": float("inf")},
        {"gpu_hours": 1},
    ],
)
def test_what_is_no_price_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        price(**values)


def test_only_prices_of_tokens_are_by_token() -> None:
    assert price(input=0, output=0).by_token
    assert not price(gpu_hour=0).by_token


def test_a_column_of_costs_is_exact() -> None:
    picos = [0, 1, None, 123_456_789_012_345, 2**63 - 1]
    column = usd_column(picos)
    assert column.to_pylist() == [None if pico is None else usd(pico) for pico in picos]
    assert usd_column([]).type == COST == column.type
