"""Quality drops, in percent, as people read them."""

from __future__ import annotations

from batchroute.policy.forecast import Range
from batchroute.words import NOT_KNOWN, number, percent


def interval(drop: Range | None) -> str:
    """`0.2 to 1.4 %`."""
    return "" if drop is None else f"{number(drop.low)} to {number(drop.high)} %"


def with_interval(drop: Range | None) -> str:
    """`0.8 % (0.2 to 1.4 %)`."""
    return NOT_KNOWN if drop is None else f"{percent(drop.value)} ({interval(drop)})"


def quality(drop: float) -> str:
    """What a drop did to quality: `0.8 % lower`."""
    text = number(abs(drop))
    if text == "0.0":
        return "unchanged"
    return f"{text} % {'lower' if drop > 0 else 'higher'}"


def quality_interval(drop: Range) -> str:
    """The interval after `quality(drop.value)`: `0.2 to 1.4 %`, or with words where its ends differ in sign."""
    low, high = number(drop.low), number(drop.high)
    signs = {end.startswith("−") for end in (low, high) if end != "0.0"}
    if number(drop.value) == "0.0" or len(signs) > 1:
        return f"{_end(drop.low)} to {_end(drop.high)}"
    if signs == {True}:
        low, high = number(-drop.high), number(-drop.low)
    return f"{low} to {high} %"


def _end(drop: float) -> str:
    return "0.0 %" if number(drop) == "0.0" else quality(drop)
