"""The backend `transformers`: Hugging Face models in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batchroute import models
from batchroute.errors import InputError
from batchroute.generators.backend import Backend, check_weights
from batchroute.importing import uncollected

if TYPE_CHECKING:
    import torch

    from batchroute.generators.base import Generator
    from batchroute.generators.settings import ModelSpec


def _check(spec: ModelSpec) -> str:
    from batchroute.generators import plain_template
    from batchroute.generators.prompting import check_template

    words = check_weights(spec)
    path = models.resolve(spec.model)
    plain = plain_template.read(Path(path))
    if plain is not None:
        # What it refuses, transformers may say better.
        with contextlib.suppress(InputError):
            check_template(spec, plain)
            return words
    # The import takes seconds.
    from transformers import AutoTokenizer

    with models.loading(f"the model '{spec.model}'", path, allow_pickle=spec.allow_pickle):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=spec.trust_remote_code)
    check_template(spec, tokenizer)
    return words


def _load(spec: ModelSpec, device: Callable[[], torch.device], gpus: Sequence[int] | None) -> Generator:
    with uncollected():
        from batchroute.generators.transformers.generator import TransformersGenerator

    return TransformersGenerator(spec, device(), gpus)


def _auto_dtype(spec: ModelSpec, device: torch.device) -> str:
    from batchroute.generators.transformers.loading import auto_dtype

    return auto_dtype(spec, device)


def _gpus(spec: ModelSpec) -> int | None:
    return None if spec.device_map is not None and spec.tensor_parallel == 1 else spec.tensor_parallel


def _extras(spec: ModelSpec) -> Mapping[str, str]:
    needed = {"quantization": ("quantization", spec.quantization), "adapters": ("adapter", spec.adapter)}
    return {extra: key for extra, (key, value) in needed.items() if value is not None}


_SPEED = frozenset({"batch_size", "batching", "device_map", "tensor_parallel", "trust_remote_code", "allow_pickle"})

BACKENDS = (
    Backend(
        name="transformers",
        settings=_SPEED | {"dtype", "quantization", "adapter", "chat_template_kwargs"},
        speed=_SPEED,
        holds_weights=True,
        logprobs=True,
        samples=True,
        check=_check,
        load=_load,
        auto_dtype=_auto_dtype,
        gpus=_gpus,
        extras=_extras,
    ),
)
