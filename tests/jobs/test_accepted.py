"""The tables of jobs/README.md say what a run of each type gives."""

from __future__ import annotations

from tests.jobs.accepted import PAGE, tables


def test_the_page_has_the_types_that_runs_give() -> None:
    page = PAGE.read_text()
    assert [table for table in tables() if f"\n{table}\n\n" not in page] == []
