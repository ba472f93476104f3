"""Generators: one file a backend behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from batchroute.generators.base import Generator
from batchroute.generators.settings import ModelSpec

if TYPE_CHECKING:
    import torch


def load(spec: ModelSpec, device: Callable[[], torch.device]) -> Generator:
    """Load the model that `spec` names. Imports only the backend that is asked for, and torch only where that needs it.

    Raises:
        InputError: the model is not there or cannot be loaded.
    """
    if spec.backend == "echo":
        from batchroute.generators.echo import EchoGenerator

        return EchoGenerator(spec)
    from batchroute.generators.transformers import TransformersGenerator

    return TransformersGenerator(spec, device())
