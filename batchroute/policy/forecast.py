"""What a policy is expected to cost and to lose."""

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
        small_share: of the rows that can be routed.
        cost, savings: USD; None where a price is missing. Savings are against all rows on the large model.
        drop: percent; None without a calibration that tells it.
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
    """What each share of rows on the small model, the easiest first, would cost and lose: an entry for every 5 %.

    Attributes:
        drop, low, high: percent; None without a calibration.
        cost: USD; None where a price is missing.
    """

    model_config = ConfigDict(frozen=True)

    small_share: list[float]
    cost: list[float] | None
    drop: list[float] | None
    low: list[float] | None
    high: list[float] | None
