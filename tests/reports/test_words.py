from __future__ import annotations

from decimal import Decimal

import pytest

from batchroute import words
from batchroute.policy.forecast import Range
from batchroute.reports import drops


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "n/a"),
        ("0", "$0.00"),
        ("0.0000004", "$0.000000400"),
        ("0.004575", "$0.00458"),
        ("0.01", "$0.0100"),
        ("0.5", "$0.5000"),
        ("84.1", "$84.10"),
        ("1234567.891", "$1,234,567.89"),
        ("-2.5", "−$2.50"),
    ],
)
def test_dollars_have_cents_and_small_amounts_three_digits(amount: str | None, text: str) -> None:
    assert words.money(None if amount is None else Decimal(amount)) == text


def test_an_amount_below_the_columns_decimals_is_not_written_as_zero() -> None:
    assert words.money(Decimal("0.0000004"), 2) == "<$0.01"
    assert words.money(Decimal("-0.0000004"), 2) == "−<$0.01"
    assert words.money(Decimal(0), 2) == "$0.00"
    assert words.money(Decimal("0.006"), 2) == "$0.01"


def test_the_largest_amount_chooses_the_decimals_of_a_column() -> None:
    assert words.decimals_for([None, Decimal("0.000158"), Decimal("12")]) == 2
    assert words.decimals_for([Decimal("0.000158"), Decimal("-0.003954")]) == 5
    assert words.decimals_for([]) == words.decimals_for([None, Decimal(0)]) == 2


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("9999.99", "$9,999.99"),
        ("10000.4", "$10,000"),
        ("1234567.89", "$1,234,568"),
        ("-12345678", "−$12.3 million"),
        ("2500000000", "$2,500 million"),
        ("25000000000", "$25.0 billion"),
    ],
)
def test_large_amounts_have_a_short_form(amount: str, text: str) -> None:
    assert words.money_briefly(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [(None, "n/a"), (0, "0.0 %"), (0.00001, "<0.1 %"), (0.716, "71.6 %"), (0.99999, ">99.9 %"), (1, "100.0 %")],
)
def test_a_share_close_to_none_or_all_does_not_look_like_it(part: float | None, text: str) -> None:
    assert words.share(part) == text


@pytest.mark.parametrize(
    ("value", "low", "high", "change", "interval"),
    [
        (0.8, 0.2, 1.4, "0.8 % lower", "0.2 to 1.4 %"),
        (-0.8, -1.4, -0.2, "0.8 % higher", "0.2 to 1.4 %"),
        (0.3, -0.2, 0.8, "0.3 % lower", "0.2 % higher to 0.8 % lower"),
        (-0.3, -0.9, 0.4, "0.3 % higher", "0.9 % higher to 0.4 % lower"),
        (0.01, -0.4, 0.4, "unchanged", "0.4 % higher to 0.4 % lower"),
        (0.0, 0.0, 0.0, "unchanged", "0.0 % to 0.0 %"),
        (0.3, -0.01, 0.6, "0.3 % lower", "0.0 to 0.6 %"),
        (12.34, 10.06, 15.0, "12.3 % lower", "10.1 to 15.0 %"),
    ],
)
def test_a_drop_is_shown_as_a_change_of_quality(
    value: float, low: float, high: float, change: str, interval: str
) -> None:
    assert drops.quality(value) == change
    assert drops.quality_interval(Range(value=value, low=low, high=high)) == interval


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"), (0.4, "0.4 s"), (45, "45 s"), (119, "119 s"), (119.7, "2 min"), (720, "12 min"),
        (7199.9, "2 h 0 min"), (12_000, "3 h 20 min"), (47.99 * 3600, "47 h 59 min"), (353_000, "4 d 2 h"),
    ],
)  # fmt: skip
def test_a_duration_has_the_unit_of_its_size(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_a_moment_is_in_utc() -> None:
    assert words.moment("2026-11-24T02:14:09.120+00:00") == "24 November 2026, 02:14 UTC"
    assert words.moment("2026-12-01T00:30:00+02:00") == "30 November 2026, 22:30 UTC"
    assert words.moment("yesterday") == "yesterday"


def test_a_long_name_keeps_both_ends() -> None:
    assert words.cut("short\nname", 20) == "short name"
    cut = words.cut("models/" + "x" * 300 + "/router-2026-11", 31)
    assert len(cut) == 31
    assert cut.startswith("models/")
    assert cut.endswith("router-2026-11")
