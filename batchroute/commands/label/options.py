"""The options of `batchroute label`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from batchroute.config.job import Models
from batchroute.fields import Share, Side
from batchroute.quality.base import MetricSpec


class LabelOptions(BaseModel):
    """What to label, how, and where the table goes."""

    model_config = ConfigDict(extra="forbid")

    prompts: str = Field(description="parquet: a file, a glob or a folder")
    output: str = Field(description="of the quality table, a parquet file")
    metric: MetricSpec
    models: Models | None = Field(default=None, description="the pair; needed unless the responses are recorded")
    samples: int = Field(default=10, ge=1, description="responses of each model to each prompt")
    temperature: float | None = Field(
        default=None, ge=0, description="default: the model's own, or 0.7 where that is 0 and there are several samples"
    )
    seed: int = Field(default=0, ge=0)
    prompt: str = "prompt"
    id: str | None = None
    reference: str | None = Field(
        default=None,
        description="column; large: the large model's answers; default: 'reference' where the input has it",
    )
    signals: list[str] = Field(default_factory=list, description="columns that the table keeps as recorded signals")
    helper: str | None = Field(
        default=None,
        description="column with a helper's answers: how far the small model's agree with them is a recorded signal",
    )
    names: dict[Side, str] = Field(default_factory=dict, description="of the models, for recorded responses")
    recorded: dict[Side, str] = Field(
        default_factory=dict,
        description="by side, the prefix P of the input's columns P_responses, P_output_tokens, …; a side "
        "without one is sampled. Default: small and large where the input has small_responses or large_responses",
    )
    agree: int = Field(
        default=0,
        ge=0,
        description="how many of its next samples each response of the small model is compared with, by the metric",
    )
    keep_responses: bool = False
    max_failed: Share = Field(default="1%", validate_default=True)
