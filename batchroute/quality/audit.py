"""The audit: the night's real quality drop, from a sample of rows that the large model answered too."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from batchroute.fields import Share
from batchroute.quality.base import MetricSpec


class AuditSpec(BaseModel):
    """How many rows of the small model the large one answers too, and how both answers are compared.

    A share alone, `audit: 1%`, is short for `audit: {share: 1%}`.
    """

    model_config = ConfigDict(extra="forbid")

    share: Annotated[Share, Field(gt=0, description="of the rows that the small model answers; two rows at the least")]
    metric: MetricSpec | None = Field(default=None, description="default: the one that the router was trained for")
    reference: str | None = Field(default=None, description="default: 'reference' where the input has it")
    seed: int = Field(default=0, ge=0, description="of the sample")

    @model_validator(mode="before")
    @classmethod
    def _share_alone(cls, value: Any) -> Any:
        return value if isinstance(value, dict | AuditSpec) else {"share": value}


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
