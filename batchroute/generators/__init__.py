"""Generators: one file a backend behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from batchroute import models
from batchroute.errors import InputError
from batchroute.generators.base import Generator
from batchroute.generators.settings import ModelSpec
from batchroute.generators.validation import Check, CheckedGenerator

if TYPE_CHECKING:
    import torch


def load(spec: ModelSpec, device: Callable[[], torch.device], gpus: Sequence[int] | None = None) -> Generator:
    """Load the model that `spec` names; its responses are checked where it has a `response_format`.

    Args:
        gpus: the numbers of those that a model which is spread over several may use; all that are visible unless set.

    Raises:
        InputError: the model is not there or cannot be loaded.
    """
    generator = _backend(spec, device, gpus)
    return (
        generator
        if spec.response_format is None
        else CheckedGenerator(generator, Check.of_format(spec.response_format))
    )


def check(spec: ModelSpec) -> str:
    """Check what can be checked without loading a model or asking one; the model and where it is, in words.

    Raises:
        InputError: a package or a key is missing, or the model is not there.
    """
    if spec.behind_api:
        from batchroute.generators.openai.chat_api import Endpoint, Protocol

        Protocol(spec).check()
        return f"{spec.model} at {Endpoint(spec).host}"
    if spec.backend != "echo":
        models.check(spec.model, trust_remote_code=spec.trust_remote_code, allow_pickle=spec.allow_pickle)
        if spec.adapter is not None:
            models.check_adapter(spec.adapter, spec.allow_pickle)
    return spec.model


def _backend(spec: ModelSpec, device: Callable[[], torch.device], gpus: Sequence[int] | None) -> Generator:
    """Imports only the backend that is asked for, and torch only where that needs it."""
    if spec.backend == "echo":
        from batchroute.generators.echo import EchoGenerator

        return EchoGenerator(spec)
    if spec.backend == "openai":
        from batchroute.generators.openai.generator import OpenAIGenerator

        return OpenAIGenerator(spec)
    if spec.backend == "openai_batch":
        raise InputError("a provider batch cannot be asked row by row here: use the backend openai")
    if spec.backend == "vllm":
        from batchroute.generators.vllm.generator import VllmGenerator

        return VllmGenerator(spec, gpus)
    from batchroute.generators.transformers.generator import TransformersGenerator

    return TransformersGenerator(spec, device(), gpus)
