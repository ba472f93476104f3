"""`backend: auto`: which of the backends that load a model's weights answers best on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

AUTO = "auto"
_TRANSFORMERS, _VLLM = "transformers", "vllm"
# Keys of one backend that change how fast it answers: where the other one is taken, they are left out.
_SPEED = {
    _VLLM: {"engine", "python", "data_parallel"},
    _TRANSFORMERS: {"batch_size", "batching", "device_map"},
}


def chosen(settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The settings of a model with a backend in place of `auto`, and why it was taken.

    It is not measured here: loading both takes minutes. On GPUs vLLM is built for this work; on CPUs the products of
    `transformers` are about as fast, it loads in seconds, and it answers models that vLLM does not know.

    Raises:
        ValueError: a key means another thing to each of them.
    """
    if settings.get("quantization") is not None:
        raise ValueError("quantization has other values with each backend: name the backend instead of auto")
    backend, why = _backend(settings)
    other = _SPEED[_TRANSFORMERS if backend == _VLLM else _VLLM]
    kept = {key: value for key, value in settings.items() if key not in other}
    return {**kept, "backend": backend}, why


def _backend(settings: Mapping[str, Any]) -> tuple[str, str]:
    if settings.get("allow_pickle"):
        return _TRANSFORMERS, "allow_pickle is set, which vLLM does not take"
    # Before the look for GPUs, which imports torch.
    if settings.get("python") is None and importlib.util.find_spec(_VLLM) is None:
        return _TRANSFORMERS, "vLLM is not installed"
    import torch

    if torch.cuda.is_available():
        return _VLLM, "this machine has a GPU, and vLLM is installed"
    return _TRANSFORMERS, "this machine has no GPU that torch sees, and on a CPU it loads faster"
