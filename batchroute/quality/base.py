"""What every quality metric shares: its settings, what it measures and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from batchroute.devices import DType

MetricName = Literal["bartscore", "likelihood", "rouge", "bleu", "chrf", "exact_match", "embedding", "judge"]


class MetricSpec(BaseModel):
    """Which metric, and what it needs. Settings that a metric does not have must be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: MetricName
    model: str | None = Field(default=None, description="of a metric that uses one: a directory, hub id, embedded:NAME")
    direction: Literal["reference", "response", "both"] | None = Field(
        default=None, description="bartscore, likelihood: which text is predicted, the other one given"
    )
    endpoint: str | None = Field(default=None, description="judge: base URL of an OpenAI-compatible API")
    api_key_env: str = Field(default="OPENAI_API_KEY", description="judge: the environment variable with the key")
    batch_size: int = Field(default=16, ge=1, description="texts at a time, or judge's requests at a time")
    dtype: DType = "auto"


@dataclass(frozen=True, slots=True)
class Item:
    """One response to one prompt, to be measured."""

    prompt: str
    response: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """The quality of one response, or why it has none: exactly one of `quality` and `error_type` is set."""

    quality: float | None = None
    error_type: str | None = None
    error: str | None = None


class Metric(Protocol):
    """A loaded metric. Higher is better for all. Made by `batchroute.quality.load`; `close` gives its memory back."""

    needs_reference: bool
    load_seconds: float

    def measure(self, items: Sequence[Item]) -> list[Measurement]:
        """One measurement an item, in their order. An item that cannot be measured does not stop the others."""
        ...

    def close(self) -> None: ...
