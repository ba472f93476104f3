from __future__ import annotations

import re

import pytest

from batchroute.reports.headline import headline
from batchroute.reports.page import markdown
from batchroute.reports.page.templates import plain_text
from batchroute.reports.trend import nights as trend
from tests.reports import nights


def tables(text: str) -> list[list[list[str]]]:
    """Tables as rows of cells, as GitHub's Markdown reads them."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


@pytest.mark.parametrize("name", list(nights.ALL))
def test_every_night_begins_with_its_sentence_and_has_whole_tables(name: str) -> None:
    night = nights.ALL[name]()
    text = markdown.render(night)
    assert text.startswith(f"**{plain_text(headline(night))}**\n")
    for table in tables(text):
        assert len({len(row) for row in table}) == 1
        assert all(re.fullmatch(r"-+:?", cell) for cell in table[1])
    # Every table is a paragraph of its own, and no line is broken within one.
    assert len(tables(text)) == len(re.findall(r"^\|[-:|]+\|$", text, re.MULTILINE))
    assert all(line.startswith("|") == line.endswith("|") for line in text.splitlines() if line)
    assert text == markdown.render(night)


def test_a_full_night_shows_the_short_form() -> None:
    text = markdown.render(nights.full())
    assert "> Drift: Scores are lower than the calibration's" in text
    assert "| saved | 71.6 % | $212.40 |" in text
    assert "| large | gpt-4.1 | 34,700 | $67.30 | 14 | 5,900,000 | 6,294,000 |" in text
    assert "| too_long | 34 | req-018822, req-020001 |" in text
    assert "The router's heads disagree about a row's score by 0.041 (median)" in text
    assert len(text) < 6_000


def test_groups_that_are_left_out_are_counted() -> None:
    assert "390 more groups in the page next to this text." in markdown.render(nights.by_group())


def test_names_with_markup_alert_nobody_and_break_nothing() -> None:
    text = markdown.render(nights.hostile())
    assert "<" not in text
    assert not re.search(r"(?<!\\)[`*]", text.replace("**", ""))
    assert "&lt;!channel&gt;" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("gpt_4_turbo", "gpt_4_turbo"),
        ("_emphasis_", "\\_emphasis\\_"),
        ("a|b\nc", "a\\|b c"),
        ("$84.10 & more", "$84.10 &amp; more"),
        ("\u202eevil\x1b[31m", "evil \\[31m"),
    ],
)
def test_text_is_shown_literally(value: str, text: str) -> None:
    assert plain_text(value) == text


def test_the_trend_has_whole_tables_too() -> None:
    jobs = trend.series([nights.manifest(day, name=name) for day in (3, 4) for name in ("a|b", "c")])
    found = tables(trend.markdown(jobs))
    assert [len(table) for table in found] == [4, 4]
    assert len({len(row) for table in found for row in table}) == 1
