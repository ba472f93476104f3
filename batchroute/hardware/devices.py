"""A rank's device: which one, the precision of models on it, and its out-of-memory errors."""

from __future__ import annotations

import functools
import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from batchroute.importing import uncollected

if TYPE_CHECKING:
    import torch

DType = Literal["auto", "float32", "bfloat16", "float16"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""As `DType`, or int8: weights and inputs of linear layers in 8 bits, on a CPU."""

# Rows and columns of the matrices of a small model, where a model's own are not known.
_A_LAYER = 4096, 1024
_MAYBE_FASTER = frozenset({"avx512_bf16", "avx10_1", "avx10_2", "bf16", "svebf16"})
# The answers change with the precision, so a gain within the noise of the measurement is none.
_LEAST_GAIN = 1.4
_ROWS_AT_A_TIME, _TURNS, _MOST_MEASURED = 64, 9, 2048


def precision(
    name: DType, device: torch.device, checkpoint: torch.dtype | None = None, shape: tuple[int, int] = _A_LAYER
) -> torch.dtype:
    """The precision to load a model in.

    `auto` on a CPU is float32, or bfloat16 for a checkpoint in bfloat16 where `bfloat16_pays`. On a GPU it is float16
    if the checkpoint is saved in float16 or the GPU only emulates bfloat16, else bfloat16: a model trained in bfloat16
    can overflow in float16.

    Args:
        checkpoint: precision of the saved weights, if known.
        shape: rows and columns of the model's largest matrices, for the measurement on a CPU.
    """
    import torch

    if name != "auto":
        named = getattr(torch, name)
        assert isinstance(named, torch.dtype)
        return named
    if device.type != "cuda":
        pays = device.type == "cpu" and checkpoint == torch.bfloat16 and bfloat16_pays(*shape)
        return torch.bfloat16 if pays else torch.float32
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.float16 if checkpoint == torch.float16 else torch.bfloat16


@functools.cache
def bfloat16_pays(rows: int, columns: int) -> bool:
    """Whether this CPU multiplies a matrix of this shape faster in bfloat16 than in float32.

    With AMX it does. Other instructions for bfloat16 (AVX512_BF16, those of ARM) are faster on some machines and, by
    the same name, half as fast on others: there a product of this shape is timed, for a fraction of a second. A CPU
    without any of them converts each number, which is never faster.
    """
    flags = _cpu_flags()
    if "amx_bf16" in flags:
        return True
    return bool(flags & _MAYBE_FASTER) and _gain(min(rows, _MOST_MEASURED), min(columns, _MOST_MEASURED)) >= _LEAST_GAIN


def _cpu_flags() -> frozenset[str]:
    """What the CPU can do, as Linux names it; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split()) for line in lines if line.startswith(("flags", "Features"))), frozenset())


def _gain(rows: int, columns: int) -> float:
    """How many times faster a product is in bfloat16 than in float32: the fastest of a few of either, taken in turns.

    The clock counts the time that this thread computes, and not the time that others' work takes the core from it.
    """
    import torch

    best: dict[torch.dtype, float] = {}
    threads = torch.get_num_threads()
    # One thread: threads that wait for each other spin, which counts as work.
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            factors = [(torch.rand(_ROWS_AT_A_TIME, columns), torch.rand(rows, columns))]
            factors.append((factors[0][0].bfloat16(), factors[0][1].bfloat16()))
            for turn in range(_TURNS):
                for left, right in factors:
                    started = time.thread_time()
                    torch.nn.functional.linear(left, right)
                    seconds = max(time.thread_time() - started, 1e-9)
                    if turn:  # The first product of a kind prepares its kernel.
                        best[left.dtype] = min(seconds, best.get(left.dtype, seconds))
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]


def free_memory(device: torch.device) -> None:
    """Free the memory of models on `device` that nothing refers to any more."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def of_rank(local_rank: int) -> torch.device:
    """The accelerator of this machine's rank number `local_rank`, or the CPU if there is none."""
    with uncollected():
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
