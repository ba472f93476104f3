from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from batchroute.reports.headline import headline
from batchroute.reports.night import NightReport
from batchroute.reports.page import html as page
from tests.reports import nights

_VOID = {"meta", "link", "br", "hr", "img", "input"}


class Document(HTMLParser):
    """The text of a page. Parsing asserts that its tags are nested."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module", params=list(nights.ALL))
def rendered(request: pytest.FixtureRequest) -> tuple[NightReport, str]:
    night = nights.ALL[request.param]()
    return night, page.render(night)


def test_every_night_gives_a_page_that_is_whole_small_and_by_itself(rendered: tuple[NightReport, str]) -> None:
    night, html = rendered
    document = Document(html)
    assert document.open == []
    assert headline(night) in document.text.replace("\u00a0", " ")
    assert len(html.encode()) < 1_000_000
    assert "script" not in document.tags
    assert not re.search(r"https?:|//\w", html)
    loading = [(tag, name, value) for tag, name, value in document.attributes if name in ("src", "href")]
    assert [item for item in loading if not item[2].startswith(("data:", "#"))] == []
    # Two pictures on a page have no id in common.
    ids = [value for _, name, value in document.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_same_night_gives_the_same_page() -> None:
    night = nights.full()
    assert page.render(night) == page.render(NightReport.model_validate_json(night.model_dump_json()))


def test_a_full_night_shows_every_figure() -> None:
    html = page.render(nights.full())
    text = Document(html).text.replace("\u00a0", " ")
    for words in (
        "nightly-support · 24 November 2026, 02:14 UTC",
        "Drift: Scores are lower than the calibration's",
        "The run continued under its policy.",
        "large model alone: $296.50",
        "large gpt-4.1 34,700 $67.30 14 5,900,000 6,294,000",
        "small→large gpt-4.1 940 $1.71 0 151,000 176,000",
        "audit gpt-4.1 850 $2.11 136,000 154,000",
        "no group includes the costs of router and audit",
        "all 120,000 $84.10 312",
        "Rows that went on to the large model: 610 invalid_response, 214 refused, 116 cut.",
        "legal 18,130 61.3 % $16.41 9 6,345,500",
        "max_quality_drop 2 % (bounded) 81.0 % 96,998 rows $61.20 $59.36 to $63.04 $235.30 79.4 % 1.5 % 1.0 to 2.1 %",
        "tonight: 0.8 %",
        "tonight: $84.10",
        "threshold 0.55",
        "12 rows could not be scored and went to the large model.",
        "small model at least as good 87.1 %",
        "not measured: refused 12 rows",
        "length drifted 0.270 0.118 <0.001 Prompts are 38 % longer",
        "small 114 min 41 s 164 81,950 12 13,610,000 16,160,000",
        "too_long 34 req-018822 , req-020001",
        "The calibration was made on 1,500 rows",
        "20261124-9f3c21",
    ):
        assert words in text
    assert html.count("<svg") == 4


def test_pictures_take_their_colours_and_font_from_the_page() -> None:
    html = page.render(nights.full())
    pictures = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    # No fixed colour: white and black would not follow the page's light or dark scheme.
    assert set(re.findall(r"#[0-9a-f]{6}\b", pictures)) == set()
    assert {"--ink", "--muted", "--line", "--small", "--large", "--quality"} <= set(
        re.findall(r"var\((--\w+)", pictures)
    )
    assert "DejaVu" not in pictures
    assert set(re.findall(r"--[\w-]+", pictures)) <= set(re.findall(r"(--[\w-]+):", html))


def test_names_with_markup_are_shown_literally() -> None:
    html = page.render(nights.hostile())
    document = Document(html)
    assert (
        "<script>alert('x')</script> | *bold* `code` # heading <!channel> &amp; [a](b) ${x} {{ 7*7 }}" in document.text
    )
    assert "\u202e" not in html
    assert max(len(word) for word in document.text.split()) < 100


def test_hundreds_of_groups_are_folded_and_counted() -> None:
    html = page.render(nights.by_group())
    assert "The 20 most expensive of 400 groups" in html
    first = html[: html.index("<details>")]
    assert first.count('<th scope="row" class="wrap">tenant-') == 20
    assert "tenant-0399 · eu" in first
    assert html.count("<summary>180 more groups</summary>") == 2
    assert "200 further groups in <code>cost.parquet</code>" in html
    assert "Each group has its own threshold, from 0.2015 to 0.797." in html
    assert "$1,234,567.89" in html
    assert "&lt;$0.01" in html


def test_thousands_of_groups_with_the_longest_names_stay_below_a_megabyte() -> None:
    name = "&<>'\"" * 60
    groups = [nights.group({"team": f"{place}{name}"}, "small", 5, "0.1") for place in range(3000)]
    found = nights.cost(nights.usage("s", 15_000, 9, 9, "300"), nights.usage("l", 0, 0, 0, "0"), groups=groups)
    choices = nights.by_group(3000).choices
    assert len(page.render(nights.night(found, choices=choices, by=name)).encode()) < 1_000_000


def test_an_unknown_figure_is_neither_drawn_nor_named() -> None:
    html = page.render(nights.unknown())
    assert html.count("<svg") == 1
    assert "No row was audited." in html
    assert "batchroute calibrate makes one." in html
    assert "for each share of rows on the small model" not in html
    assert "None" not in Document(html).text
    empty = Document(page.render(nights.empty()))
    assert "table" not in empty.tags
    assert "svg" not in empty.tags
