"""Tonight's calibration: how many of the night's own rows both models answer, and how the answers are compared."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from batchroute.fields import LARGE
from batchroute.quality.base import MetricSpec, by_name


class CalibrateSpec(BaseModel):
    """Rows of the night that both models answer, so that the policy is decided by figures of the night itself.

    `metric: exact_match` is short for `metric: {name: exact_match}`.
    """

    model_config = ConfigDict(extra="forbid")

    rows: int = Field(default=500, ge=50, description="drawn evenly over the night; they keep the large model's answer")
    metric: MetricSpec = Field(description="compares the two answers")
    reference: str | None = Field(
        default=None,
        description="input column with references; large: the large model's answer is the reference, which measures "
        "likeness to it; default: 'reference' where the input has it",
    )
    reader: str | None = Field(
        default=None,
        description="the encoder of a reader of answers that is fitted to these rows; a directory, hub id or embedded",
    )
    seed: int = Field(default=0, ge=0, description="of the drawn rows")

    _metric_by_name = field_validator("metric", mode="before")(by_name)

    @property
    def by_likeness(self) -> bool:
        """Whether the figures measure likeness to the large model instead of truth."""
        return self.reference == LARGE
