"""What every quality metric shares: its settings, what it measures and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from batchroute.hardware.devices import DType
from batchroute.quality.extract import Extract
from batchroute.quality.metric import MetricRecord, metric_records

Direction = Literal["reference", "response", "both"]

LIKENESS = "likeness to the large model, not truth"
"""What every figure that was measured so is called."""

_NOT_OF_ALL = ("model", "direction", "endpoint", "extract")


class MetricSpec(BaseModel):
    """Which metric, and its settings; a setting that the metric does not have is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    model: str | None = Field(
        default=None, description="of a metric that uses one: a directory, hub id, embedded:NAME; judge: its name there"
    )
    direction: Direction | None = Field(
        default=None, description="bartscore, likelihood: which text is predicted, the other one given"
    )
    extract: str | None = Field(
        default=None,
        description="exact_match: what of an answer counts: a regular expression (its group), or json:KEY",
    )
    endpoint: str | None = Field(default=None, description="judge: base URL of an OpenAI-compatible API")
    api_key_env: str = Field(default="OPENAI_API_KEY", description="judge: the environment variable with the key")
    batch_size: int = Field(default=16, ge=1, description="texts at a time, or judge's requests at a time")
    dtype: DType = "auto"

    @property
    def record(self) -> MetricRecord:
        return metric_records()[self.name]

    @field_validator("name")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in metric_records():
            raise ValueError(f"there is no metric '{value}': name one of {', '.join(metric_records())}")
        return value

    @field_validator("extract")
    @classmethod
    def _is_a_rule(cls, value: str | None) -> str | None:
        if value is not None:
            Extract(value)
        return value

    @model_validator(mode="after")
    def _has_its_settings(self) -> Self:
        for key in _NOT_OF_ALL:
            given, has = getattr(self, key), key in self.record.settings
            if given is not None and not has:
                raise ValueError(f"the metric {self.name} has no {key}: leave it out")
            if given is None and has:
                default = self.record.defaults.get(key)
                if default is None and key == "model":
                    raise ValueError(f"the metric {self.name} needs a model: name one")
                # Frozen for callers only: a setting that was not given gets its default.
                object.__setattr__(self, key, default)
        return self


def by_name(value: Any) -> Any:
    """Reads `metric: rouge` as `metric: {name: rouge}`."""
    return {"name": value} if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Item:
    """One response to one prompt, to be measured.

    Attributes:
        likeness: the reference is the large model's answer: what counts is how alike the two are.
    """

    prompt: str
    response: str
    reference: str | None = None
    likeness: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """The quality of one response, or why it has none: exactly one of `quality` and `error_type` is set."""

    quality: float | None = None
    error_type: str | None = None
    error: str | None = None


NO_REFERENCE = Measurement(error_type="no_reference", error="the metric needs a reference, and the row has none")
EMPTY = Measurement(error_type="empty_response", error="the response is empty: it has no token to predict")


class Metric(Protocol):
    """A loaded metric. Higher is better for all. `batchroute.quality.load` makes it; `close` frees its memory."""

    load_seconds: float

    def measure(self, items: Sequence[Item]) -> list[Measurement]:
        """One measurement per item, in the same order. An item that cannot be measured does not stop the others."""
        ...

    def close(self) -> None: ...
