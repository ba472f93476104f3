"""The arguments of vLLM's `LLM`, from the settings of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from batchroute import models
from batchroute.errors import InputError
from batchroute.generators.settings import ModelSpec

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def arguments_of(spec: ModelSpec, adapter: str | None) -> dict[str, Any]:
    """The arguments of vLLM's `LLM`. Those of the setting `engine` replace others."""
    arguments: dict[str, Any] = {
        "model": models.resolve(spec.model),
        "dtype": spec.dtype,
        "tensor_parallel_size": spec.tensor_parallel,
        "trust_remote_code": spec.trust_remote_code,
        # By default vLLM loads pickles too.
        "load_format": "safetensors",
        "enable_prefix_caching": True,
    }
    if spec.logprobs:
        arguments["logprobs_mode"] = "raw_logprobs"
    if spec.quantization is not None:
        arguments["quantization"] = spec.quantization
    if adapter is not None:
        arguments |= {"enable_lora": True, "max_lora_rank": _rank(adapter)}
    return arguments | spec.engine


def adapter_of(name: str) -> str:
    path = Path(name).expanduser()
    if path.is_dir():
        # vLLM would load a pickle too.
        if not (path / "adapter_model.safetensors").is_file():
            raise InputError(f"'{name}' is no LoRA adapter: it has no adapter_model.safetensors")
        return str(path.resolve())
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"the adapter directory '{name}' does not exist")
    return name


def _rank(adapter: str) -> int:
    """The `max_lora_rank` for an adapter, one of those that vLLM knows; 16, its default, for an adapter on a hub."""
    try:
        config = json.loads((Path(adapter) / "adapter_config.json").read_text())
        needed = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, KeyError, TypeError):
        needed = 16
    return next((rank for rank in _RANKS if rank >= max(needed, 16)), _RANKS[-1])
