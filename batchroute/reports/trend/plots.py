"""The pictures of a trend: figures night by night."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from batchroute.policy.forecast import Range
from batchroute.reports.page.plots import (
    INK,
    MUTED,
    NOTICE,
    QUALITY,
    SMALL,
    canvas,
    few_ticks,
    money_ticks,
    percent_tick,
    svg,
)
from batchroute.words import MONTHS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Times = Sequence[datetime.datetime]

_HEIGHT = 220


def cost(times: Times, spent: Sequence[Decimal | None], alone: Sequence[Decimal | None], name: str) -> str:
    with canvas(_HEIGHT) as (figure, axes):
        days = _days(times)
        baseline, total = _numbers(alone), _numbers(spent)
        axes.plot(days, baseline, "o-", color=MUTED, linewidth=1.4, markersize=_size(times, 3))
        axes.plot(days, total, "o-", color=INK, linewidth=2, markersize=_size(times))
        top = max((value for value in [*baseline, *total] if not math.isnan(value)), default=0)
        axes.set_ylim(0, top * 1.12 or 1)
        axes.yaxis.set_major_locator(few_ticks())
        axes.yaxis.set_major_formatter(money_ticks(axes))
        _time_axis(axes, times)
        return svg(figure, name, "Cost night by night, and of the large model alone")


def share(times: Times, shares: Sequence[float | None], name: str) -> str:
    with canvas(_HEIGHT) as (figure, axes):
        percent = [math.nan if value is None else 100 * value for value in shares]
        axes.plot(_days(times), percent, "o-", color=SMALL, linewidth=2, markersize=_size(times), clip_on=False)
        axes.set_ylim(0, 100)
        axes.set_yticks(range(0, 101, 25))
        axes.yaxis.set_major_formatter(percent_tick)
        _time_axis(axes, times)
        return svg(figure, name, "Share of rows on the small model night by night")


def drop(times: Times, expected: Sequence[Range | None], audited: Sequence[Range | None], name: str) -> str:
    with canvas(_HEIGHT) as (figure, axes):
        days = _days(times)
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.fill_between(days, _ends(expected, "low"), _ends(expected, "high"), color=QUALITY, alpha=0.16, linewidth=0)
        axes.plot(days, _ends(expected, "value"), "o-", color=QUALITY, linewidth=2, markersize=_size(times, 3.5))
        for day, drop in zip(days, audited, strict=True):
            if drop is not None:
                axes.plot([day, day], [drop.low, drop.high], color=INK, linewidth=1.4)
        axes.plot(days, _ends(audited, "value"), "o", color=INK, markersize=_size(times))
        axes.margins(y=0.1)
        axes.yaxis.set_major_locator(few_ticks())
        axes.yaxis.set_major_formatter(percent_tick)
        _time_axis(axes, times)
        return svg(figure, name, "Quality drop night by night, expected and audited")


def drift(times: Times, psi: Mapping[tuple[datetime.datetime, str], tuple[float, bool]], name: str) -> str:
    """A line for each feature, a dot for each night: a larger dot is further from the calibration."""
    with canvas(_HEIGHT) as (figure, axes):
        features = list(dict.fromkeys(feature for _, feature in psi))
        days = dict(zip(times, _days(times), strict=True))
        for (at, feature), (value, drifted) in psi.items():
            # The area grows with the index; no dot is too small to see.
            size = min(14.0, max(3.0, 17 * math.sqrt(max(value, 0))))
            colour = NOTICE if drifted else MUTED
            axes.plot(days[at], features.index(feature), "o", color=colour, markersize=size, markeredgewidth=0)
        axes.set_yticks(range(len(features)), features)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(features) - 0.4, -0.6)
        _time_axis(axes, times)
        return svg(figure, name, "Drift night by night and feature by feature")


def _days(times: Times) -> list[float]:
    return [at.timestamp() / 86400 for at in times]


def _size(times: Times, most: float = 5) -> float:
    """A marker size at which neighbours do not touch."""
    return max(1.2, min(most, 150 / len(times)))


def _numbers(amounts: Sequence[Decimal | None]) -> list[float]:
    return [math.nan if amount is None else float(amount) for amount in amounts]


def _ends(ranges: Sequence[Range | None], end: str) -> list[float]:
    return [math.nan if one is None else float(getattr(one, end)) for one in ranges]


def _time_axis(axes: Axes, times: Times) -> None:
    """At most four dates, the first and the last among them."""
    days = _days(times)
    first, last = days[0], days[-1]
    margin = (last - first) * 0.04 or 0.5
    axes.set_xlim(first - margin, last + margin)
    steps = max(1, min(3, round(last - first)))
    ticks = [first] if last == first else [first + (last - first) * step / steps for step in range(steps + 1)]
    years = times[0].year != times[-1].year
    axes.set_xticks(ticks, [_date(tick, years) for tick in ticks])


def _date(day: float, years: bool) -> str:
    at = datetime.datetime.fromtimestamp(day * 86400, datetime.UTC)
    return f"{at.day} {MONTHS[at.month - 1][:3]}{f' {at.year}' if years else ''}"
