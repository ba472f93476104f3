from __future__ import annotations

from decimal import Decimal

import pytest

from batchroute.costs import console
from batchroute.costs.console import closing_line, money
from tests.costs.test_report import BY_HOUR, BY_TOKEN, CHEAP, FREE, ROUTER, build, scored, usage


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (None, "n/a"),
        ("0", "$0.00"),
        ("1234567.891", "$1,234,567.89"),
        ("-2.5", "$-2.50"),
        ("0.5", "$0.5000"),
        ("0.01", "$0.0100"),
        ("0.002", "$0.002000"),
        ("-0.000066", "$-0.000066"),
    ],
)
def test_money_has_the_digits_that_its_size_needs(amount: str | None, words: str) -> None:
    assert money(None if amount is None else Decimal(amount)) == words


def test_the_closing_line_tells_what_was_saved() -> None:
    found = build(usage(FREE, 9, 900, 90), usage(BY_TOKEN, 1, 100, 10), BY_TOKEN, scored(FREE))
    assert closing_line(found) == (
        "Cost $0.000200 against $0.002000 for all rows on the large model (90.0% saved), "
        "with 90.0% of the rows on the small one; 0 rows shared the answer of an identical prompt."
    )


def test_the_closing_line_tells_what_was_spent_more() -> None:
    found = build(usage(CHEAP, 0, 0, 0), usage(BY_TOKEN, 4, 400, 40), BY_TOKEN)
    assert "(250.0% MORE)" in closing_line(found)


def test_the_closing_line_names_missing_prices() -> None:
    found = build(usage(None, 6, 600, 60), usage(BY_TOKEN, 4, 400, 40), BY_TOKEN, scored(None))
    assert closing_line(found) == "Cost not known: router.price, models.small.price missing in the job file."


def test_the_closing_line_says_why_savings_are_not_known() -> None:
    found = build(usage(FREE, 6, 6, 6), usage(BY_HOUR, 0, 0, 0), BY_HOUR)
    assert closing_line(found).startswith("Cost $0.002000; savings not known: no row ran on the large model")


def test_the_closing_line_of_an_empty_run() -> None:
    found = build(usage(CHEAP, 0, 0, 0), usage(BY_TOKEN, 0, 0, 0), BY_TOKEN, scored(ROUTER, rows=0))
    assert closing_line(found) == "The input is empty; so is the output."


def test_the_table_is_printed_with_all_its_columns_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.show(build(usage(None, 600, 1_234_567, 60), usage(BY_TOKEN, 400, 400, 40), BY_TOKEN))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "job: 1,000 rows"
    small = next(line.split() for line in lines if line.split()[:1] == ["small"])
    assert small == ["small", "m", "600", "60.0%", "0", "1,234,567", "60", "0.0", "s", "0.0", "s", "n/a"]
    everything = next(line.split() for line in lines if line.split()[:1] == ["all"])
    assert everything == ["all", "1,000", "0", "n/a"]
    assert lines[-1] == "Cost not known: models.small.price missing in the job file."
