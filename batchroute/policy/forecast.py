"""Forecasts: what a policy is expected to cost, and to lose in quality."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Range(BaseModel):
    """A figure with its 95 % interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


class Forecast(BaseModel):
    """What a policy is expected to do with all rows of the night.

    Attributes:
        policy: in words.
        small_share: share of the routable rows on the small model.
        cost, savings: USD; None if a price is missing. Savings are relative to all rows on the large model.
        drop: quality drop in percent; None if the calibration does not give one.
    """

    model_config = ConfigDict(frozen=True)

    policy: str
    rows: int
    small: int
    small_share: float
    cost: Range | None
    savings: float | None
    savings_share: float | None
    drop: Range | None


class Curve(BaseModel):
    """Cost and quality drop by cost advantage, easiest rows first: an entry for every 5 % of the rows.

    Attributes:
        drop, low, high: percent; None without a calibration.
        cost: USD; None if a price is missing.
    """

    model_config = ConfigDict(frozen=True)

    small_share: list[float]
    cost: list[float] | None
    drop: list[float] | None
    low: list[float] | None
    high: list[float] | None
