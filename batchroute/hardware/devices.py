"""What a device asks of a model: its precision, and how it says that memory has run out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

DType = Literal["auto", "float32", "bfloat16", "float16"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""As `DType`, or the weights and inputs of linear layers in 8 bits, on a CPU."""


def precision(name: DType, device: torch.device, checkpoint: torch.dtype | None = None) -> torch.dtype:
    """The precision to load a model in.

    `auto` is float32 on CPU, where half precision is slower. On a GPU it is the checkpoint's own where that is a half
    precision that the GPU has, since a model trained in bfloat16 can overflow in float16; else bfloat16, or float16 on
    GPUs that only emulate bfloat16.

    Args:
        checkpoint: what the weights are saved in, where that is known.
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


def of_rank(local_rank: int) -> torch.device:
    """The accelerator of the rank of that number on this machine, or the CPU where there is none."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return torch.device("cpu")
    # What libraries take unless told.
    torch.accelerator.set_device_index(local_rank)
    return torch.device(found.type, local_rank)


def gpus_of_rank(local_rank: int, local_size: int, each: int | None) -> list[int] | None:
    """The GPUs of a rank whose model is spread over several: as many copies on a machine as its GPUs hold.

    Args:
        each: GPUs of a copy; None for all of the machine.

    Returns:
        Numbers of visible GPUs; none where they are all others'. None for whatever is there: of the only rank of a
        machine, and without GPUs.
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

    # Of memory that the CPU lacks torch speaks only in words, which differ by platform.
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
