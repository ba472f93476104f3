from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchroute.reports.page import html as page
from batchroute.reports.trend import nights as trend
from tests.reports import nights
from tests.reports.page import browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    binary = browser.find()
    if binary is None:
        pytest.skip("no Chromium to open the report in: apt-get install chromium")
    with browser.tab(binary, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    html = {name: page.render(night()) for name, night in nights.ALL.items()}
    html["trend"] = trend.render(trend.series([nights.manifest(day) for day in range(11, 25)]))
    for name, text in html.items():
        (folder / f"{name}.html").write_text(text)
    return {name: folder / f"{name}.html" for name in html}


@pytest.mark.parametrize("name", [*nights.ALL, "trend"])
def test_a_page_asks_for_nothing_complains_of_nothing_and_fits(
    tab: browser.Tab, pages: dict[str, Path], name: str
) -> None:
    for width in (360, 1200):
        tab.show(pages[name], width)
        assert tab.requests() == [pages[name].as_uri()]
        assert tab.complaints() == []
        assert tab.ask("document.documentElement.scrollWidth") <= width
        # Content that does not fit scrolls in its own box; nothing is cut off.
        assert tab.ask(
            "[...document.querySelectorAll('main *, header *')].filter(e => !e.closest('.scroll, svg')"
            " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 99))"
        ) == []  # fmt: skip


def test_the_report_is_rendered_as_it_is_meant(tab: browser.Tab, pages: dict[str, Path]) -> None:
    tab.show(pages["full"])
    assert tab.ask("document.querySelector('h1').innerText").startswith("Routing 120,000 prompts cost $84.10 and saved")
    assert tab.ask("document.querySelectorAll('svg').length") == 4
    # The histogram's bars have an area, and its text is drawn.
    assert tab.ask("document.querySelectorAll('figure svg path').length") > 80
    assert "threshold 0.55" in tab.ask("[...document.querySelectorAll('svg text')].map(e => e.textContent)")
    assert tab.ask("Math.min(...[...document.querySelectorAll('svg text')].map(e => e.getBBox().width))") > 2
    assert tab.ask("getComputedStyle(document.querySelector('svg text')).fontFamily").startswith("system-ui")
    bars = tab.ask("[...document.querySelectorAll('.bar .is-small')].map(e => e.getBoundingClientRect().width)")
    assert bars[0] == pytest.approx(0.613 * 112, abs=2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_pictures_stand_out_by_day_and_by_night(tab: browser.Tab, pages: dict[str, Path], scheme: str) -> None:
    """The contrasts of the Web Content Accessibility Guidelines: 4.5 for text, 3 for graphics."""
    tab.show(pages["full"], scheme=scheme)
    paper = luminance(tab.ask("getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.9) == (scheme == "light")
    for selector in ("h1", ".lead", "td", "thead th", ".sub", ".marked th .sub", "svg text"):
        name = "fill" if "svg" in selector else "color"
        found = tab.ask(f"getComputedStyle(document.querySelector({selector!r})).{name}")
        assert contrast(luminance(found), paper) > 4.5, selector
    for name in ("is-small", "is-large"):
        found = tab.ask(f"getComputedStyle(document.querySelector('.dot.{name}')).backgroundColor")
        assert contrast(luminance(found), paper) > 3, name


def test_the_report_prints_on_light_paper(tab: browser.Tab, pages: dict[str, Path]) -> None:
    tab.show(pages["full"], scheme="dark")
    printed = tab.pdf()
    assert printed.startswith(b"%PDF-")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 6
    tab.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert luminance(tab.ask("getComputedStyle(document.body).backgroundColor")) > 0.9
    tab.call("Emulation.setEmulatedMedia", media="")


def luminance(colour: str) -> float:
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
