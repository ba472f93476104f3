"""What a device asks of a model: its precision, and how it says that memory has run out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

DType = Literal["auto", "float32", "bfloat16", "float16"]


def precision(name: DType, device: torch.device) -> torch.dtype:
    """`auto` is float32 on CPU, where half precision is slower, and the widest half precision that the GPU has."""
    import torch

    if name != "auto":
        named = getattr(torch, name)
        assert isinstance(named, torch.dtype)
        return named
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def out_of_memory(error: Exception) -> bool:
    import torch

    # Of memory that the CPU lacks torch speaks only in words, which differ by platform.
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
