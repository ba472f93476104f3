"""Field types of the job file: shares, times, and the two sides of a job."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


def _share(value: Any) -> Any:
    """Read `60%`, `0.6` or `"0.6"`. A float goes through its text, which is exact."""
    if not isinstance(value, str):
        return str(value) if isinstance(value, float) else value
    number = value.strip()
    try:
        return Decimal(number[:-1]) / 100 if number.endswith("%") else Decimal(number)
    except InvalidOperation as error:
        raise ValueError("must be a share such as 60% or 0.6") from error


Share = Annotated[Decimal, BeforeValidator(_share), Field(ge=0, le=1)]
"""A share of a whole, an exact number from 0 to 1; written `60%` or `0.6`."""


def _duration(value: Any) -> Any:
    """Read `30h`, `90 min`, `45s`, `2d`, or a number of seconds."""
    if not isinstance(value, str):
        return value
    number = value.strip().rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = value.strip()[len(number) :].strip() or "s"
    try:
        return float(number) * _SECONDS[unit]
    except (ValueError, KeyError) as error:
        raise ValueError("must be a time such as 30h, 90min or 45s, or a number of seconds") from error


Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0, allow_inf_nan=False)]
"""Seconds; written `30h`, `90min`, `45s`, `2d`, or as a number."""

Side = Literal["small", "large"]
"""One of a job's two models."""

SIDES: tuple[Side, Side] = ("small", "large")

LARGE = "large"
"""The value of a setting `reference` that takes the large model's answers for the truth: the qualities are then their
likeness to these answers."""
