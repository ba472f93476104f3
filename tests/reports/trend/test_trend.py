from __future__ import annotations

import re

import pytest

from batchroute.errors import InputError
from batchroute.reports.trend import nights as trend
from tests.reports import nights
from tests.reports.page.test_html import Document


def test_nights_are_in_the_order_of_their_commits_job_by_job() -> None:
    given = [nights.manifest(day, name=name) for day in (12, 10, 11) for name in ("b", "a")]
    jobs = trend.series([*given, given[0]])
    assert [(shown.job, [night.at.day for night in shown.nights]) for shown in jobs] == [
        ("a", [10, 11, 12]),
        ("b", [10, 11, 12]),
    ]


def test_a_night_is_read_from_its_manifest() -> None:
    night = trend.night_of(nights.manifest(19))
    assert night.small_share == pytest.approx((78_000 + 900 * 5 + 900) / 119_750)
    assert night.quality.audited_drop is not None
    assert night.drifted == "length"
    assert trend.night_of(nights.manifest(18)).drifted == "none"


def test_a_night_of_an_earlier_version_shows_its_known_figures() -> None:
    old = nights.manifest(9, quality={})
    unpriced = nights.manifest(
        10, quality={}, cost={"total_cost": None, "baseline": {"cost": None, "assumption": "x"}, "savings": None}
    )
    assert trend.night_of(old).small_share == pytest.approx((78_000 + 900 * 2 + 900) / 119_750)
    jobs = trend.series([old, unpriced])
    assert [row["cost"] for row in trend.table(jobs[0])] == ["$96.10", "n/a"]
    assert {row["audited"] for row in trend.table(jobs[0])} == {"n/a"}
    html = trend.render(jobs)
    assert ">Quality drop<" not in html
    assert html.count("<svg") == 2
    assert trend.headline(jobs[0]) == (
        "2 nights cost $96.10 (known for 1 of them) and saved $204.40 (68.0 %) against the large model alone."
    )


def test_the_page_shows_every_night_and_every_figure() -> None:
    jobs = trend.series([nights.manifest(day) for day in range(11, 25)])
    html = trend.render(jobs)
    document = Document(html)
    text = document.text.replace("\u00a0", " ")
    assert document.open == []
    assert "14 nights cost $1,267.40 and saved $2,967.60 (70.1 %) against the large model alone." in text
    assert (
        "2026-11-19 02:14 UTC 120,000 $96.10 $308.50 68.8 % 69.6 % 0.7 % 0.2 to 1.2 % 0.9 % 0.3 to 1.6 % length" in text
    )
    assert html.count("<svg") == 4
    assert html == trend.render(jobs)
    assert not re.search(r"https?:|//\w", html)


def test_of_more_than_a_year_only_the_latest_nights_are_shown() -> None:
    many = [nights.manifest(1 + place % 28, run_id=f"run-{place}") for place in range(trend.LATEST + 3)]
    (shown,) = trend.series(many)
    assert (len(shown.nights), shown.earlier) == (trend.LATEST, 3)
    html = trend.render([shown])
    assert "without 3 earlier nights" in html
    assert len(html.encode()) < 1_000_000


def test_names_with_markup_are_shown_literally() -> None:
    html = trend.render(trend.series([nights.manifest(day, name=nights.HOSTILE) for day in (1, 2)]))
    assert "<script>alert('x')</script>" in Document(html).text


@pytest.mark.parametrize(
    "changes", [{"committed_at": "noon"}, {"cost": {"total_cost": "much"}}, {"quality": {"drift": 3}}]
)
def test_damaged_figures_are_one_sentence(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match="the manifest of run run-05 is damaged"):
        trend.series([nights.manifest(5, **changes)])
