"""The backend `vllm`: models in vLLM engines, each of which runs in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from batchroute.generators.backend import Backend, check_weights

if TYPE_CHECKING:
    from batchroute.generators.base import Generator
    from batchroute.generators.settings import ModelSpec


def _load(spec: ModelSpec, device: object, gpus: Sequence[int] | None) -> Generator:
    from batchroute.generators.vllm.generator import VllmGenerator

    return VllmGenerator(spec, gpus)


def _gpus(spec: ModelSpec) -> int:
    of_a_copy = int(spec.engine.get("tensor_parallel_size", spec.tensor_parallel))
    return of_a_copy * int(spec.engine.get("pipeline_parallel_size", 1)) * spec.data_parallel


_SPEED = frozenset({"tensor_parallel", "data_parallel", "engine", "trust_remote_code"})

BACKENDS = (
    Backend(
        name="vllm",
        settings=_SPEED | {"dtype", "quantization", "adapter"},
        speed=_SPEED,
        holds_weights=True,
        logprobs=True,
        samples=True,
        check=check_weights,
        load=_load,
        gpus=_gpus,
        needs_gpu=True,
        shares_memory=True,
        # vLLM works on hundreds of rows at a time, and waits for the last of them at the end of each unit.
        fewest_rows=4096,
        extras=lambda spec: {"vllm": "backend is vllm"},
    ),
)
