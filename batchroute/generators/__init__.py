"""Generators: a folder for each backend behind one interface (`base`), each described by one record (`backend`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from batchroute import models
from batchroute.generators.base import Generator
from batchroute.generators.settings import ModelSpec
from batchroute.generators.validation import Check, CheckedGenerator

if TYPE_CHECKING:
    import torch


def load(spec: ModelSpec, device: Callable[[], torch.device], gpus: Sequence[int] | None = None) -> Generator:
    """Load the model that `spec` names; if `spec` has a `response_format`, its responses are checked against it.

    Args:
        device: called by backends that compute in this process.
        gpus: the numbers of the GPUs that a model spread over several may use; all visible ones unless set.

    Raises:
        InputError: the model is not there or cannot be loaded.
    """
    generator = spec.record.load(spec, device, gpus)
    if spec.samples:
        generator = _agreeing(generator, spec, device)
    if spec.response_format is None:
        return generator
    return CheckedGenerator(generator, Check.of_format(spec.response_format))


def _agreeing(generator: Generator, spec: ModelSpec, device: Callable[[], torch.device]) -> Generator:
    from batchroute.generators.agreement import AgreeingGenerator, Sampler, rule_of

    assert spec.confidence is not None
    name, sampler = spec.confidence.agree or "text", cast(Sampler, generator)
    if spec.confidence.model is None:
        return AgreeingGenerator(sampler, spec.samples, rule_of(name))
    from batchroute.generators.encoder import Encoder

    try:
        encoder = Encoder(spec.confidence.model, device())
    except BaseException:
        generator.close()
        raise
    return AgreeingGenerator(sampler, spec.samples, encoder.agreement, encoder.close)


def check(spec: ModelSpec) -> str:
    """Check what can be checked without loading or asking the model; returns the model and its place in words.

    Raises:
        InputError: a package or a key is missing, or the model is not there.
    """
    if spec.confidence is not None and spec.confidence.model is not None:
        models.check(spec.confidence.model)
    words = spec.record.check(spec)
    return words if spec.why_backend is None else f"{words}; backend: auto takes {spec.backend}: {spec.why_backend}"
