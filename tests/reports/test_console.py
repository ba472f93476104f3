from __future__ import annotations

import pytest

from batchroute.costs.prices import Price
from batchroute.costs.report import CostReport
from batchroute.reports import console
from batchroute.reports.notes import notes
from tests.costs.test_report import BY_TOKEN, CHEAP, FREE, build, gone_on, scored, usage


def with_escalated_rows(price: Price | None = BY_TOKEN) -> CostReport:
    """Two of the small model's nine rows went on to the large one."""
    usages = usage(FREE, 9, 900, 90), usage(price, 1, 100, 10)
    return build(*usages, price, scored(FREE), gone_on(usage(price, 2, 200, 20), cut=1, invalid=1))


def test_without_a_terminal_the_table_has_all_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.show(build(usage(None, 600, 1_234_567, 60), usage(BY_TOKEN, 400, 400, 40), BY_TOKEN))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "job: 1,000 rows"
    small = next(line.split() for line in lines if line.split()[:1] == ["small"])
    assert small == ["small", "m", "600", "60.0", "%", "0", "1,234,567", "60", "0.0", "s", "0.0", "s", "n/a"]
    everything = next(line.split() for line in lines if line.split()[:1] == ["all"])
    assert everything == ["all", "1,000", "0", "n/a"]
    assert lines[-1] == "Cost not known: models.small.price missing."


def test_the_table_has_a_row_for_the_audit(capsys: pytest.CaptureFixture[str]) -> None:
    report = build(usage(FREE, 9, 900, 90), usage(BY_TOKEN, 1, 100, 10), BY_TOKEN, scored(FREE))
    console.show(report.model_copy(update={"audited": usage(BY_TOKEN, 2, 200, 20)}))
    (audit,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("audit"))
    assert audit == ["audit", "m", "2", "200", "20", "0.0", "s", "0.0", "s", "$0.000400"]


def test_the_table_has_a_row_for_escalated_rows(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(with_escalated_rows())
    lines = capsys.readouterr().out.splitlines()
    # No share: the small model's line counts the same rows.
    (escalated,) = (line.split() for line in lines if line.strip().startswith("small→large"))
    assert escalated == ["small→large", "m", "2", "0", "200", "20", "0.0", "s", "0.0", "s", "$0.000400"]
    assert lines[-1] == "Rows that went on to the large model: 1 cut, 1 invalid."


def test_a_plain_run_has_no_notes(capsys: pytest.CaptureFixture[str]) -> None:
    small, large = usage(FREE, 9, 900, 90, source="the job file"), usage(BY_TOKEN, 1, 100, 10, source="the job file")
    report = build(small, large, BY_TOKEN, scored(FREE), gone_on(usage(BY_TOKEN, 0, 0, 0)))
    assert notes(report) == []
    console.show(report)
    assert "small→large" not in capsys.readouterr().out


def test_a_note_below_the_table_names_cached_reasoning_and_estimated_tokens() -> None:
    small = usage(FREE, 9, 9000, 900, cached_tokens=4000, estimated=1)
    large = usage(BY_TOKEN, 1, 100, 1000, reasoning_tokens=800)
    assert notes(build(small, large, BY_TOKEN)) == [
        "4,000 of 9,100 input tokens came from a cache of the provider or the engine.",
        "800 output tokens were reasoning.",
        "The endpoint reported no tokens for 1 row: batchroute estimated them.",
    ]
    escalated = gone_on(usage(BY_TOKEN, 2, 200, 2000, reasoning_tokens=500, estimated=1300))
    assert notes(build(usage(FREE, 9, 900, 90), large, BY_TOKEN, escalated=escalated))[1:] == [
        "1,300 output tokens were reasoning.",
        "The endpoint reported no tokens for 1,300 rows: batchroute estimated them.",
    ]


def test_notes_name_the_source_of_a_price_or_why_there_is_none() -> None:
    small = usage(CHEAP, 6, 600, 60, source="prices.yaml as of 2026-11-01 (contract 4711)")
    large = usage(None, 4, 400, 40, source="not in prices.yaml (which has 'gpt-4.1')")
    assert notes(build(small, large, None)) == [
        "Price of the small model: prices.yaml as of 2026-11-01 (contract 4711)",
        "No price of the large model: not in prices.yaml (which has 'gpt-4.1')",
        "Cost not known: models.large.price missing.",
    ]
