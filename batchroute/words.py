"""Figures and names as people read them: in reports, on the console, in log lines. A minus is typographic: −."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from decimal import Decimal

NOT_KNOWN = "n/a"
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_LARGE = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"))


def money(amount: Decimal | float | None, decimals: int | None = None) -> str:
    """US dollars: with cents from one dollar on, with three significant digits below.

    Args:
        decimals: use this many decimals instead; an amount that they would round to 0 becomes `<$0.01`.
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
    """The number of decimals that a column of amounts needs for its largest."""
    largest: Decimal = max((abs(amount) for amount in amounts if amount is not None), default=Decimal(0))
    if largest == 0 or largest >= 1:
        return 2
    # There are -adjusted() - 1 zeros after the point.
    return max(4, min(12, -largest.adjusted() + 2))


def money_briefly(amount: Decimal | float | None) -> str:
    """As `money`, for little room: no cents from ten thousand on, and millions in words."""
    if amount is None or abs(float(amount)) < 10_000:
        return money(amount)
    return f"{'−' if amount < 0 else ''}${count_briefly(abs(float(amount)))}"


def count_briefly(number: float) -> str:
    """`9,500,000`, `12.3 million`."""
    for size, name in _LARGE:
        if number >= size * 9.995:
            return f"{number / size:,.{_decimals_of_three(number / size)}f} {name}"
    return f"{number:,.0f}"


def _decimals_of_three(number: float) -> int:
    return 2 if number < 9.995 else 1 if number < 99.95 else 0


def digits(number: int | None) -> str:
    """`1,200`; empty for None."""
    return "" if number is None else f"{number:,}"


def share(part: float | Decimal | None) -> str:
    """A share as a percentage: `0.0 %` means none and `100.0 %` means all, never almost."""
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
    """The number of a percentage: one decimal, and no minus before a zero."""
    text = f"{abs(value):,.1f}"
    return f"−{text}" if value < 0 and text != "0.0" else text


def percent(value: float | None) -> str:
    return NOT_KNOWN if value is None else f"{number(value)} %"


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
    """`24 November 2026, 02:14 UTC`; text that is not ISO 8601 stays as it is."""
    at = utc(iso)
    return iso if at is None else f"{at.day} {MONTHS[at.month - 1]} {at.year}, {at:%H:%M} UTC"


def utc(iso: str) -> datetime.datetime | None:
    """A time of ISO 8601 in UTC, which it is also taken for without an offset; None where the text is no such time."""
    try:
        at = datetime.datetime.fromisoformat(iso)
    except ValueError:
        return None
    return at.replace(tzinfo=datetime.UTC) if at.tzinfo is None else at.astimezone(datetime.UTC)


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def cut(text: str, most: int) -> str:
    """One line of at most `most` characters. A longer text keeps both ends, which tell paths and ids apart."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    kept = most - 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def model(name: str) -> str:
    """The last part of a model's name or path."""
    return name.rstrip("/").rsplit("/", 1)[-1].removeprefix("embedded:") or name
