"""What a metric is: one frozen record next to the metric's code, found by its place."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchroute import quality

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class MetricRecord:
    """What the rest of the package needs to know of a metric.

    A module next to this file has the records of its metrics in the tuple `METRICS`. It is imported with the job file,
    so it imports torch and optional packages inside of functions only.

    Attributes:
        name: the value of `metric.name` in the job file, and of `--metric`.
        load: makes the `Metric`. Takes the `MetricSpec`, whose file imports this one, and a function that returns the
            process's device. Raises `InputError`, or `ImportError` if the packages of `extra` are missing.
        needs_reference: a row without a reference has no quality.
        behind_api: a model behind an endpoint measures. One process asks it, since all processes share its rate limit;
            `model` names nothing on this machine, and the endpoint is part of no description of the metric.
        settings: those of `model`, `direction`, `extract` and `endpoint` that the metric has.
        defaults: of `settings`. A model without a default must be named.
        extra: the extra of batchroute that the metric needs.
    """

    name: str
    load: Callable[[Any, Callable[[], torch.device]], Any]
    needs_reference: bool = True
    behind_api: bool = False
    settings: frozenset[str] = frozenset()
    defaults: Mapping[str, str] = field(default_factory=dict)
    extra: str | None = None


@functools.cache
def metric_records() -> dict[str, MetricRecord]:
    """The records of the modules next to this file, by name."""
    names = [module.name for module in pkgutil.iter_modules(quality.__path__, f"{quality.__name__}.")]
    modules = [importlib.import_module(name) for name in sorted(names)]
    return {record.name: record for module in modules for record in getattr(module, "METRICS", ())}
