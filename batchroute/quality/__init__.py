"""Quality metrics: one file a family behind one interface. Higher is better for all."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import ValidationError

from batchroute.quality.base import Metric, MetricSpec

if TYPE_CHECKING:
    import torch

_DESCRIBED = re.compile(r"(?P<name>\w+)(?: \((?P<model>.+?)(?:, direction (?P<direction>\w+))?\))?")


def load(spec: MetricSpec, device: Callable[[], torch.device]) -> Metric:
    """Load the metric that `spec` names. Imports only the family that is asked for, and torch only where that needs it.

    Raises:
        InputError: its model or endpoint is not there or cannot be used, or an optional package is missing.
    """
    if spec.name == "bartscore":
        from batchroute.quality.bartscore import BartScore

        return BartScore(spec, device())
    if spec.name == "likelihood":
        from batchroute.quality.likelihood import Likelihood

        return Likelihood(spec, device())
    if spec.name == "embedding":
        from batchroute.quality.embedding import Embedding

        return Embedding(spec, device())
    if spec.name == "judge":
        from batchroute.quality.judge import Judge

        return Judge(spec)
    from batchroute.quality.text import load_text_metric

    return load_text_metric(spec.name)


def describe(spec: MetricSpec) -> str:
    """The metric in words for a quality table's metadata: equal for equal ones, and without anything secret."""
    about = [part for part in (spec.model, spec.direction and f"direction {spec.direction}") if part]
    return f"{spec.name} ({', '.join(about)})" if about else spec.name


def named(description: str) -> MetricSpec | None:
    """The metric that `describe` says this of; None for an unknown one, and for a judge: its endpoint is left out."""
    found = _DESCRIBED.fullmatch(description)
    if found is None or found["name"] == "judge":
        return None
    try:
        return MetricSpec.model_validate({key: value for key, value in found.groupdict().items() if value is not None})
    except ValidationError:
        return None


def needs_reference(spec: MetricSpec) -> bool:
    """Known without loading it."""
    return spec.name != "judge"
