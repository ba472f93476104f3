"""Figures in words, as people read them: on the pages, in chat and in e-mail. Signs are typographic: − for a minus."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from decimal import Decimal

from batchroute.policy.forecast import Range

NOT_KNOWN = "n/a"
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_LARGE = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"))


def usd(amount: Decimal | float | None, decimals: int | None = None) -> str:
    """Dollars: with cents from one dollar on, and three digits that tell something below.

    Args:
        decimals: as many instead; an amount that they would make 0 is `<` the smallest that they can write.
    """
    if amount is None:
        return NOT_KNOWN
    exact = amount if isinstance(amount, Decimal) else Decimal(repr(amount))
    if decimals is None:
        decimals = decimals_for([exact])
    size, least = abs(exact), Decimal(1).scaleb(-decimals)
    sign = "−" if exact < 0 else ""
    if 0 < size < least / 2:
        return f"{sign}<${least:,.{decimals}f}"
    return f"{sign if round(size, decimals) else ''}${size:,.{decimals}f}"


def decimals_for(amounts: Iterable[Decimal | None]) -> int:
    """The decimals that a column of amounts needs for its largest."""
    largest: Decimal = max((abs(amount) for amount in amounts if amount is not None), default=Decimal(0))
    if largest == 0 or largest >= 1:
        return 2
    # The digits before the first one that is not 0 are -adjusted() - 1.
    return max(4, min(12, -largest.adjusted() + 2))


def usd_briefly(amount: Decimal | float | None) -> str:
    """As `usd`, where there is little room: no cents from ten thousand on, and millions as such."""
    if amount is None or abs(float(amount)) < 10_000:
        return usd(amount)
    return f"{'−' if amount < 0 else ''}${_briefly(abs(float(amount)))}"


def count_briefly(number: int) -> str:
    return _briefly(number)


def _briefly(number: float) -> str:
    for size, name in _LARGE:
        if number >= size * 9.995:
            return f"{number / size:,.{_decimals_of_three(number / size)}f} {name}"
    return f"{number:,.0f}"


def _decimals_of_three(number: float) -> int:
    return 2 if number < 9.995 else 1 if number < 99.95 else 0


def share(part: float | Decimal | None) -> str:
    """A share from 0 to 1 as a percentage. What is not all is not 100.0 %, and what is not nothing is not 0.0 %."""
    if part is None:
        return NOT_KNOWN
    if 0 < part < Decimal("0.0005"):
        return "<0.1 %"
    if Decimal("0.9995") <= part < 1:
        return ">99.9 %"
    return percent(float(part) * 100)


def of(part: int, whole: int) -> str:
    """`part` as a share of `whole`."""
    return share(Decimal(part) / whole) if whole else NOT_KNOWN


def number(value: float) -> str:
    """A percentage's number: one decimal, and no minus before a zero."""
    text = f"{abs(value):,.1f}"
    return f"−{text}" if value < 0 and text != "0.0" else text


def percent(value: float | None) -> str:
    return NOT_KNOWN if value is None else f"{number(value)} %"


def interval(found: Range | None) -> str:
    """`0.2 to 1.4 %`."""
    return "" if found is None else f"{number(found.low)} to {number(found.high)} %"


def with_interval(found: Range | None) -> str:
    """`0.8 % (0.2 to 1.4 %)`."""
    return NOT_KNOWN if found is None else f"{percent(found.value)} ({interval(found)})"


def quality(drop: float) -> str:
    """What a quality drop, in percent, says of the quality: `0.8 % lower`."""
    text = number(abs(drop))
    if text == "0.0":
        return "unchanged"
    return f"{text} % {'lower' if drop > 0 else 'higher'}"


def quality_interval(found: Range) -> str:
    """The interval that follows `quality` of its value: `0.2 to 1.4 %`, or with words where its ends differ in sign."""
    low, high = number(found.low), number(found.high)
    ends = {end.startswith("−") for end in (low, high) if end != "0.0"}
    if number(found.value) == "0.0" or len(ends) > 1:
        return f"{_end(found.low)} to {_end(found.high)}"
    if ends == {True}:
        low, high = number(-found.high), number(-found.low)
    return f"{low} to {high} %"


def _end(drop: float) -> str:
    return "0.0 %" if number(drop) == "0.0" else quality(drop)


def duration(seconds: float) -> str:
    """`0.4 s`, `45 s`, `12 min`, `3 h 20 min`, `4 d 2 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24:,} d {hours % 24} h"


def moment(iso: str) -> str:
    """`24 November 2026, 02:14 UTC`; what is not ISO 8601 stays as it is."""
    at = utc(iso)
    return iso if at is None else f"{at.day} {_MONTHS[at.month - 1]} {at.year}, {at:%H:%M} UTC"


def utc(iso: str) -> datetime.datetime | None:
    try:
        at = datetime.datetime.fromisoformat(iso)
    except ValueError:
        return None
    return at.replace(tzinfo=datetime.UTC) if at.tzinfo is None else at.astimezone(datetime.UTC)


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def cut(text: str, most: int) -> str:
    """One line of at most so many characters; of a longer one both ends, which tell paths and ids apart."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    kept = most - 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def model(name: str) -> str:
    """The last part of a model's name or path."""
    return name.rstrip("/").rsplit("/", 1)[-1].removeprefix("embedded:") or name
