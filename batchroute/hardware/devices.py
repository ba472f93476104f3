"""A rank's device: which one, the precision of models on it, and its out-of-memory errors."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

DType = Literal["auto", "float32", "bfloat16", "float16"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""As `DType`, or int8: weights and inputs of linear layers in 8 bits, on a CPU."""


def precision(name: DType, device: torch.device, checkpoint: torch.dtype | None = None) -> torch.dtype:
    """The precision to load a model in.

    `auto` is float32 on a CPU, where half precision is slower. On a GPU it is float16 if the checkpoint is saved in
    float16 or the GPU only emulates bfloat16, else bfloat16: a model trained in bfloat16 can overflow in float16.

    Args:
        checkpoint: precision of the saved weights, if known.
    """
    import torch

    if name != "auto":
        named = getattr(torch, name)
        assert isinstance(named, torch.dtype)
        return named
    if device.type != "cuda":
        return torch.float32
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.float16 if checkpoint == torch.float16 else torch.bfloat16


def free_memory(device: torch.device) -> None:
    """Free the memory of models on `device` that nothing refers to any more."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def of_rank(local_rank: int) -> torch.device:
    """The accelerator of this machine's rank number `local_rank`, or the CPU if there is none."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    # The default device of libraries.
    torch.accelerator.set_device_index(local_rank)
    return torch.device(accelerator.type, local_rank)


def gpus_of_rank(local_rank: int, local_size: int, each: int | None) -> list[int] | None:
    """The GPUs of a rank whose model is spread over several GPUs. A machine has as many copies as its GPUs allow.

    Args:
        each: GPUs of a copy; None for all GPUs of the machine.

    Returns:
        Indices of visible GPUs; empty if other ranks use all of them. None, for any visible GPU, if the machine has one
        rank or no GPUs.
    """
    if local_size == 1:
        return None
    import torch

    visible = torch.cuda.device_count()
    if not visible:
        return None
    each = min(each or visible, visible)
    first = local_rank * each
    return list(range(first, first + each)) if first + each <= visible else []


def out_of_memory(error: Exception) -> bool:
    import torch

    # For CPU memory, torch raises a RuntimeError whose message differs by platform.
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
