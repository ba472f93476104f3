"""The environment variables of each copy of a model: which GPUs it sees, and how vLLM runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from batchroute.errors import InputError
from batchroute.generators.settings import ModelSpec

# Without these, vLLM reports its usage to its makers, and its processes are forked and inherit the worker's pipe.
_ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_NO_USAGE_STATS": "1"}


def environments(spec: ModelSpec, own_gpus: Sequence[int] | None) -> list[dict[str, str]]:
    """The environment variables of each copy. If there are several copies or ranks, each copy sees its own GPUs alone.

    Args:
        own_gpus: the numbers of this rank's GPUs; None: all that are visible.

    Raises:
        InputError: there are too few GPUs.
    """
    # Without this rank's variables, by which vLLM would take its own processes for ranks.
    shared = _ENVIRONMENT | {name: value for name, value in os.environ.items() if not _is_of_a_rank(name)}
    if spec.data_parallel == 1 and own_gpus is None:
        return [shared]
    needed = spec.gpus_of_a_copy
    assert needed is not None
    visible = _visible_gpus()
    gpus = visible if own_gpus is None else [visible[number] for number in own_gpus]
    each = needed // spec.data_parallel
    if len(gpus) < needed:
        raise InputError(
            f"data_parallel {spec.data_parallel} with {each} GPUs a copy needs {needed} GPUs, and {len(gpus)} are "
            "visible"
        )
    shares = [gpus[number * each : (number + 1) * each] for number in range(spec.data_parallel)]
    return [shared | {"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def _is_of_a_rank(variable: str) -> bool:
    of_a_rank = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return variable in of_a_rank or variable.startswith("TORCHELASTIC_")


def _visible_gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
