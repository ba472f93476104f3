"""The audit's settings and results: the night's quality drop, from a sample of rows that both models answered."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from batchroute.fields import Share
from batchroute.quality.base import MetricSpec, by_name


class AuditSpec(BaseModel):
    """How many of the small model's rows the large model answers too, and how the answers are compared.

    `audit: 1%` is short for `audit: {share: 1%}`.
    """

    model_config = ConfigDict(extra="forbid")

    share: Annotated[Share, Field(gt=0, description="of the rows that the small model answers; two rows at the least")]
    metric: MetricSpec | None = Field(default=None, description="default: the one that the router was trained for")
    reference: str | None = Field(
        default=None,
        description="input column; large: the large model's answers; default: 'reference' where the input has it",
    )
    seed: int = Field(default=0, ge=0, description="of the sample")

    _metric_by_name = field_validator("metric", mode="before")(by_name)

    @model_validator(mode="before")
    @classmethod
    def _share_alone(cls, value: Any) -> Any:
        return value if isinstance(value, dict | AuditSpec) else {"share": value}


class Audit(BaseModel):
    """The results of an audit.

    Attributes:
        rows: the audited rows: drawn from the small model's rows, and answered by the large model too.
        of: the rows that they were drawn from: answered by the small model alone.
        measured: audited rows with both qualities.
        large_rows: measured rows of the large model, for the mean that the drop is relative to.
        small_quality, large_quality: means over the audited rows, weighted by stratum.
        drop, low, high: the drop over all answered rows of the night in percent, and its 95 % interval.
        as_good: share of the audited rows whose small answer was at least as good.
        cost: USD, of the large model's answers to audited rows; None if its price is missing.
        failures: audited rows without both qualities, by error type.
        likeness: the qualities are likeness to the large model's answers, not truth.
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
    likeness: bool = False
