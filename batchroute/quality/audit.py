"""The audit: the night's real quality drop, with an interval, from a sample of rows that the large model answered too."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict


class Audit(BaseModel):
    """What an audit found. Drops in percent; the interval is of 95 %.

    Attributes:
        rows: rows of the small model that the large one answered too; `measured` of them have both qualities.
        of: rows that were answered by the small model alone, of which these were drawn.
        large_rows: rows of the large model whose quality was measured, for the mean that the drop is relative to.
        small_quality, large_quality: means over the audited rows, by their strata's weights.
        drop, low, high: of all of the night's answered rows.
        as_good: share of the audited rows whose small answer was at least as good.
        cost: of the large model's answers to audited rows, USD; None where the price is missing.
        failures: audited rows without both qualities, by error type.
    """

    model_config = ConfigDict(frozen=True)

    metric: str
    share: Decimal
    seed: int
    rows: int
    of: int
    measured: int
    large_rows: int
    small_quality: float | None
    large_quality: float | None
    drop: float | None
    low: float | None
    high: float | None
    as_good: float | None
    cost: Decimal | None
    failures: dict[str, int]
