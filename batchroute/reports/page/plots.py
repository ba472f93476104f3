"""The pictures of a report, as SVG with the colours and the font of the page around it.

A picture is half as wide as the page, which is the width of a telephone, so that its text has one size on both.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from batchroute import words
from batchroute.policy.forecast import Curve, Range
from batchroute.reports.night import Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

WIDTH = 380
"""The width of every picture, in CSS pixels."""

# matplotlib draws with these colours; `svg` replaces each with the page's variable, which is light or dark.
INK, MUTED, LINE, PAPER = "#010101", "#020202", "#030303", "#040404"
SMALL, LARGE, QUALITY, NOTICE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    PAPER: "--paper",
    SMALL: "--small",
    LARGE: "--large",
    QUALITY: "--quality",
    NOTICE: "--notice-line",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # A fixed salt: the same night gives the same bytes.
    "svg.hashsalt": "batchroute",
    # Off, since a $ is a dollar here.
    "text.parse_math": False,
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 1,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 4,
    "ytick.major.size": 0,
    "text.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


@contextmanager
def canvas(height: int) -> Iterator[tuple[Figure, Axes]]:
    """An empty picture in the style of the page, with one pair of axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        yield figure, figure.add_subplot()


def svg(figure: Figure, name: str, description: str) -> str:
    """The picture as an `<svg>` element for a page with several pictures.

    Args:
        name: letters; unique on the page, a prefix of the element's ids.
        description: plain text for screen readers.
    """
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None})
    text = target.getvalue()
    body = text[text.index("<defs>") : text.rindex("</svg>")]
    body = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", body, flags=re.DOTALL)
    height = re.search(r'viewBox="0 0 \S+ (\S+)"', text)
    assert height is not None
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w.-]+)", body))
    body = re.sub(r' id="([\w.-]+)"', lambda match: _id(match[1], name) if match[1] in used else "", body)
    body = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", body).replace("xlink:href", "href")
    # Releases of matplotlib differ: they name the font's family, or declare the whole font at once.
    body = re.sub(r"(font-family: |font: [\d.]+px )[^;\"]+", r"\1var(--font)", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r">\s+<", "><", body).strip()
    label = _attribute(description)
    return f'<svg viewBox="0 0 {WIDTH} {height[1]}" role="img" aria-label="{label}">{body}</svg>'


def _id(identifier: str, name: str) -> str:
    return f' id="{name}-{identifier}"'


def _attribute(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return text


def drop_curve(curve: Curve, small_share: float | None, expected: Range | None, audited: Range | None) -> str:
    """The expected quality drop by share of rows on the small model, and the night's point."""
    assert curve.drop is not None
    with canvas(250) as (figure, axes):
        shares = [100 * share for share in curve.small_share]
        tops = curve.drop if curve.high is None else curve.high
        if curve.low is not None and curve.high is not None:
            axes.fill_between(shares, curve.low, curve.high, color=QUALITY, alpha=0.16, linewidth=0)
        axes.plot(shares, curve.drop, color=QUALITY, linewidth=2)
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.margins(y=0.16)
        night = audited or expected
        if small_share is not None and night is not None:
            if audited is not None:
                axes.plot([100 * small_share] * 2, [audited.low, audited.high], color=INK, linewidth=1.5)
            mark(axes, 100 * small_share, night.value, hollow=audited is None)
            top = night.value if audited is None else audited.high
            _label(axes, 100 * small_share, top, f"tonight: {words.percent(night.value)}", shares, tops)
        _share_axis(axes)
        axes.yaxis.set_major_formatter(percent_tick)
        return svg(figure, "curve", "Quality drop by share of rows on the small model")


def cost_curve(curve: Curve, small_share: float | None, cost: float | None) -> str:
    """The cost by share of rows on the small model, and the night's point."""
    assert curve.cost is not None
    with canvas(250) as (figure, axes):
        shares = [100 * share for share in curve.small_share]
        axes.plot(shares, curve.cost, color=MUTED, linewidth=2)
        axes.set_ylim(0, max([*curve.cost, cost or 0]) * 1.2 or 1)
        if small_share is not None and cost is not None:
            mark(axes, 100 * small_share, cost, hollow=False)
            label = f"tonight: {words.money_briefly(cost)}"
            _label(axes, 100 * small_share, cost, label, shares, curve.cost)
        _share_axis(axes)
        axes.yaxis.set_major_formatter(money_ticks(axes))
        return svg(figure, "cost", "Cost by share of rows on the small model")


def histogram(scores: Histogram, thresholds: Sequence[float]) -> str:
    """Rows by score and model, and the threshold."""
    with canvas(250) as (figure, axes):
        edges = scores.edges
        widths = [high - low for low, high in itertools.pairwise(edges)]
        bars: dict[str, Any] = {"align": "edge", "edgecolor": PAPER, "linewidth": 0.8}
        axes.bar(edges[:-1], scores.large, widths, color=LARGE, label="large model", **bars)
        axes.bar(edges[:-1], scores.small, widths, bottom=scores.large, color=SMALL, label="small model", **bars)
        shown = [threshold for threshold in thresholds if edges[0] <= threshold <= edges[-1]]
        top = max((low + high for low, high in zip(scores.small, scores.large, strict=True)), default=0) or 1
        # One threshold is a line through the picture; several are ticks above the bars.
        foot, thickness = (0, 1.5) if len(shown) == 1 else (top * 1.05, 0.8)
        for threshold in shown:
            axes.plot([threshold] * 2, [foot, top * 1.12], color=INK, linewidth=thickness)
        if shown:
            middle = (shown[0] + shown[-1]) / 2
            label = f"threshold {shown[0]:.3g}" if len(shown) == 1 else f"{len(shown)} thresholds"
            # Near an end the label is aligned so that it stays within the picture.
            place = (middle - edges[0]) / (edges[-1] - edges[0])
            side = "left" if place < 0.25 else "right" if place > 0.75 else "center"
            axes.text(middle, top * 1.15, label, ha=side, va="bottom")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, top * 1.28)
        axes.set_xlabel("score: the higher, the easier for the small model")
        axes.yaxis.set_major_formatter(lambda value, _: _rows(value))
        return svg(figure, "scores", "Rows by score, and the threshold between the models")


def drops(rows: Sequence[tuple[str, Range]]) -> str:
    """Named quality drops with their intervals, one above the other."""
    with canvas(64 + 34 * len(rows)) as (figure, axes):
        axes.axvline(0, color=MUTED, linewidth=1)
        for place, (name, drop) in enumerate(rows):
            colour = INK if name == "audited" else QUALITY
            axes.plot([drop.low, drop.high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
            axes.plot(drop.value, place, "o", color=colour, markersize=8)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.set_xlabel("quality drop")
        axes.xaxis.set_major_locator(few_ticks())
        axes.xaxis.set_major_formatter(percent_tick)
        return svg(figure, "drops", "Quality drop with its 95 % interval, expected and audited")


def mark(axes: Axes, x: float, y: float, hollow: bool) -> None:
    """The night's point; hollow if it is expected, not measured."""
    face = PAPER if hollow else INK
    axes.plot(x, y, "o", color=INK, markerfacecolor=face, markeredgewidth=1.8, markersize=8, zorder=5, clip_on=False)


def _label(axes: Axes, x: float, y: float, text: str, xs: Sequence[float], tops: Sequence[float]) -> None:
    """A label for the point at `x`, above the point and above everything drawn under the label.

    Args:
        tops: the highest that is drawn at each of `xs`.
    """
    # The estimated width of the text, in percent of the axis. The label goes to the side where the curve is lower.
    width = 2.4 * len(text)
    falls = tops[-1] < tops[0]
    left = min(x, 100 - width) if falls else max(x - width, 0)
    below = [top for at, top in zip(xs, tops, strict=True) if left - 5 <= at <= left + width + 5]
    place = (left, "left") if falls else (left + width, "right")
    axes.annotate(
        text, (place[0], max([y, *below])), xytext=(0, 9), textcoords="offset points", ha=place[1], va="bottom"
    )


def _share_axis(axes: Axes) -> None:
    axes.set_xlim(0, 100)
    axes.set_xticks(range(0, 101, 20))
    axes.xaxis.set_major_formatter(percent_tick)
    axes.set_xlabel("rows on the small model")
    axes.yaxis.set_major_locator(few_ticks())


def few_ticks() -> MaxNLocator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])


def percent_tick(value: float, _: float) -> str:
    return f"{value:.6g} %".replace("-", "−")


def money_ticks(axes: Axes) -> Callable[[float, float], str]:
    """Dollars with as many decimals as the steps between the ticks need."""

    def text(value: float, _: float) -> str:
        places = axes.yaxis.get_majorticklocs()
        step = abs(places[1] - places[0]) if len(places) > 1 else 1.0
        if value == 0 or step >= 1:
            return f"${_briefly(value)}"
        return f"${value:.{min(12, max(2, len(f'{step:.12f}'.rstrip('0').partition('.')[2])))}f}"

    return text


def _rows(value: float) -> str:
    return "" if value != int(value) else _briefly(value)


def _briefly(value: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:,.10g}{unit}"
    return f"{value:,.10g}"
