from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from batchroute.costs.columns import COST, usd_column
from batchroute.costs.prices import PICO, Price, split, usd

TOKENS = st.integers(0, 10**10)
MICROS = st.integers(0, 10**9)
MONEY = MICROS.map(lambda micros: Decimal(micros).scaleb(-6))
DISCOUNT = st.integers(0, 10**6).map(lambda parts: Decimal(parts).scaleb(-6))


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


@st.composite
def rows_of_tokens(draw: st.DrawFn) -> tuple[int, int, int]:
    """Input, output and cached tokens of a row, as `of_tokens` takes them."""
    read = draw(st.integers(0, 10**5))
    return read, draw(st.integers(0, 10**5)), draw(st.integers(0, read))


@given(MONEY, MONEY, MONEY, DISCOUNT, st.booleans(), st.lists(rows_of_tokens(), max_size=20))
def test_rows_with_cached_tokens_and_a_discount_add_up_to_the_cost_of_all(
    read: Decimal, cached: Decimal, written: Decimal, off: Decimal, batch: bool, rows: list[tuple[int, int, int]]
) -> None:
    full = price(input=read, cached_input=cached, output=written, batch_discount=off)
    full = full.in_batches() if batch else full
    total = full.of_tokens(*(sum(row[column] for row in rows) for column in range(3)))
    assert sum(full.of_tokens(*row) for row in rows) == total


@given(MONEY, MONEY, MONEY, rows_of_tokens())
def test_cached_tokens_are_part_of_the_input(
    read: Decimal, cached: Decimal, written: Decimal, row: tuple[int, int, int]
) -> None:
    input_tokens, output_tokens, cached_tokens = row
    full = price(input=read, cached_input=cached, output=written)
    spent = (input_tokens - cached_tokens) * read + cached_tokens * cached + output_tokens * written
    assert usd(full.of_tokens(*row)) == spent / 10**6


@given(MONEY, MONEY, rows_of_tokens())
def test_without_a_price_of_their_own_cached_tokens_cost_what_others_do(
    read: Decimal, written: Decimal, row: tuple[int, int, int]
) -> None:
    both = price(input=read, output=written)
    assert both.of_tokens(*row) == both.of_tokens(row[0], row[1])


def test_no_more_tokens_are_cached_than_read() -> None:
    with pytest.raises(AssertionError):
        price(input=1, output=1).of_tokens(1, 0, 2)


@given(MONEY, DISCOUNT)
def test_a_discounted_price_is_rounded_to_a_millionth_of_a_dollar_half_up(per_million: Decimal, off: Decimal) -> None:
    exact = Fraction(per_million) * (1 - Fraction(off)) * 10**6
    micros = math.floor(exact + Fraction(1, 2))
    full = price(input=per_million, output=0, batch_discount=off)
    assert full.in_batches().of_tokens(10**6, 0) == micros * 10**6
    assert full.of_tokens(10**6, 0) == per_million * PICO


def test_a_discount_is_off_all_prices_by_token_and_only_in_a_batch() -> None:
    full = price(input="0.15", cached_input="0.075", output="0.6", batch_discount="50%")
    assert usd(full.of_tokens(2 * 10**6, 10**6, 10**6)) == Decimal("0.825")
    assert usd(full.in_batches().of_tokens(2 * 10**6, 10**6, 10**6)) == Decimal("0.4125")
    assert price(input="0.15", output="0.6").in_batches().of_tokens(7, 7) == full.of_tokens(7, 7)


@pytest.mark.parametrize(
    ("per_million", "off", "half_up"), [("0.000001", "50%", 1), ("0.000001", "50.0001%", 0), ("0.000003", "50%", 2)]
)
def test_half_a_millionth_of_a_dollar_is_rounded_up(per_million: str, off: str, half_up: int) -> None:
    discounted = price(input=per_million, output=0, batch_discount=off).in_batches()
    assert discounted.of_tokens(10**6, 0) == half_up * 10**6


@pytest.mark.parametrize(
    ("seconds", "pico"), [(0, 0), (3600, 21 * 10**11), (1, 583_333_333), (0.5, 291_666_666), (1e-9, 0)]
)
def test_time_costs_its_part_of_an_hour_rounded_down(seconds: float, pico: int) -> None:
    assert price(gpu_hour=2.10).of_seconds(seconds) == pico


def test_a_year_of_an_expensive_machine_is_exact() -> None:
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
        {"input": 1, "output": 1, "cached_input": -1},
        {"input": 1, "output": 1, "batch_discount": "101%"},
        {"input": 1, "output": 1, "batch_discount": 50},
        {"input": 1, "output": 1, "batch_discount": "0.0000001"},
    ],
)
def test_a_wrong_price_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        price(**values)


@pytest.mark.parametrize("values", [{}, {"gpu_hour": 1}])
@pytest.mark.parametrize(("key", "value"), [("cached_input", 1), ("batch_discount", "50%")])
def test_a_setting_of_a_price_by_token_is_refused_without_one(
    values: dict[str, object], key: str, value: object
) -> None:
    with pytest.raises(ValidationError) as caught:
        price(**values, **{key: value})
    sentence = f"{key} is for a price by token: it needs input and output, and no gpu_hour"
    assert [problem["msg"] for problem in caught.value.errors()] == [f"Value error, {sentence}"]


def test_only_prices_of_tokens_are_by_token() -> None:
    assert price(input=0, output=0).by_token
    assert not price(gpu_hour=0).by_token


def test_a_column_of_costs_is_exact() -> None:
    picos = [0, 1, None, 123_456_789_012_345, 2**63 - 1]
    column = usd_column(picos)
    assert column.to_pylist() == [None if pico is None else usd(pico) for pico in picos]
    assert usd_column([]).type == COST == column.type
