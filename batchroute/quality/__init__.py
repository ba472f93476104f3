"""Quality metrics: one module per family, behind one interface. Higher is better for all."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import ValidationError

from batchroute.errors import InputError
from batchroute.quality.base import Item, Metric, MetricSpec

if TYPE_CHECKING:
    import torch

_DESCRIBED = re.compile(
    r"(?P<name>\w+)(?: \((?:extract (?P<extract>.+)|(?P<model>.+?)(?:, direction (?P<direction>\w+))?)\))?", re.DOTALL
)


def load(spec: MetricSpec, device: Callable[[], torch.device]) -> Metric:
    """Load the metric. `device` is called, and torch imported, only if the metric runs on a device.

    Raises:
        InputError: its model or endpoint is not there or cannot be used, or an optional package is missing.
    """
    try:
        metric: Metric = spec.record.load(spec, device)
    except ImportError as error:
        if spec.record.extra is None:
            raise
        package = f"batchroute[{spec.record.extra}]"
        raise InputError(f"the metric {spec.name} needs a package: pip install '{package}'") from error
    return metric


def check(spec: MetricSpec, device: Callable[[], torch.device]) -> None:
    """Measure one sentence, before any model answers: hours of generation must not end at a metric that cannot work.

    Raises:
        InputError: as `load`, or as `measure` of the metric.
    """
    metric = load(spec, device)
    try:
        metric.measure([Item("What is 2 + 2?", "4", "4")])
    finally:
        metric.close()


def describe(spec: MetricSpec) -> str:
    """The metric for a quality table's metadata: the same text for equal metrics, without anything secret."""
    named = (("direction", spec.direction), ("extract", spec.extract))
    about = [spec.model] if spec.model else []
    about += [f"{name} {value}" for name, value in named if value]
    return f"{spec.name} ({', '.join(about)})" if about else spec.name


def named(description: str) -> MetricSpec | None:
    """The metric that `describe` gave this text for; None if it is unknown or behind an endpoint, which it omits."""
    match = _DESCRIBED.fullmatch(description)
    if match is None:
        return None
    try:
        spec = MetricSpec.model_validate({key: value for key, value in match.groupdict().items() if value is not None})
    except ValidationError:
        return None
    return None if spec.record.behind_api else spec
