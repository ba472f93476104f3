"""Whether a model's weights fit into memory, computed from file headers without loading the model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchroute.commands.doctor.finding import Finding, note, ok, problem, size
from batchroute.commands.doctor.machine import Machine
from batchroute.generators.settings import ModelSpec
from batchroute.hardware.devices import precision
from batchroute.models.configuration import largest_matrix, saved_precision
from batchroute.words import plural

# Besides weights, memory holds the KV cache, activations and workspaces.
_ROOM = 1.2
_HEADER_BYTES = 8
_QUANTIZED = {"int8": 1.0, "nf4": 0.5, "fp4": 0.5, "bitsandbytes": 0.5, "fp8": 1.0}


@dataclass(frozen=True, slots=True)
class Weights:
    """
    Attributes:
        parameters: number of parameters; None if the files do not say, or hold packed values.
        bytes: size of the files.
    """

    parameters: int | None
    bytes: int


def weights_in(folder: Path) -> Weights:
    """The weights in a model's folder: safetensors if there are any, else a pickle."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        pickles = [path for path in folder.glob("*.bin") if path.name != "training_args.bin"]
        return Weights(None, sum(path.stat().st_size for path in pickles))
    parameters = sum(_parameters(path) for path in files)
    packed = "quantization_config" in _config(folder)
    return Weights(None if packed else parameters, sum(path.stat().st_size for path in files))


def _parameters(path: Path) -> int:
    """Parameters in one safetensors file, from its header: eight bytes with its length, then JSON."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_BYTES), "little")
        header: dict[str, Any] = json.loads(stream.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _config(folder: Path) -> Mapping[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    assert isinstance(config, dict)
    return config


def needed(folder: Path, spec: ModelSpec, on_gpu: bool, is_router: bool = False) -> tuple[int, str]:
    """Bytes of a model's weights once loaded, and a phrase for their precision."""
    import torch
    from transformers import AutoConfig

    weights = weights_in(folder)
    if weights.parameters is None:
        return weights.bytes, "as it is saved"
    if spec.quantization in _QUANTIZED:
        return int(weights.parameters * _QUANTIZED[spec.quantization]), f"in {spec.quantization}"
    config = AutoConfig.from_pretrained(folder, trust_remote_code=spec.trust_remote_code)
    # A router computes in float32 on a CPU, whatever its weights are saved in.
    saved = None if is_router and not on_gpu else saved_precision(spec.model, config)
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = precision(spec.dtype, device, saved, largest_matrix(config))
    words = f"in {str(dtype).removeprefix('torch.')}"
    if dtype == torch.bfloat16 and not on_gpu and spec.dtype == "auto":
        words += ", which this CPU is faster in (dtype: auto)"
    return weights.parameters * dtype.itemsize, words


def fit(subject: str, place: str, taken: int, how: str, spec: ModelSpec, machine: Machine, ranks: int = 1) -> Finding:
    """Whether this machine has the memory for a model.

    Args:
        place: name of the model.
        taken: bytes of its weights.
        how: phrase for their precision.
        ranks: ranks on this machine; each loads its own copy.
    """
    words = f"{place}: {size(taken)} {how}"
    if machine.gpus.seen:
        return _on_gpus(subject, words, taken * _ROOM, spec, machine)
    if spec.record.needs_gpu and not spec.record.runs_on_cpu(spec):
        return problem(
            subject,
            f"{words}; the backend {spec.backend} needs a GPU",
            "use the backend transformers, a build of the engine for CPUs (python), or another machine",
        )
    free, total = machine.memory
    wanted = taken * _ROOM * ranks
    words += f" for each of {ranks} ranks" if ranks > 1 else ""
    if wanted > total:
        return problem(
            subject,
            f"{words}, and this machine's memory is {size(total)}",
            "give the machine or the container more memory, name a smaller model, or use an endpoint",
        )
    if wanted > free:
        return note(subject, f"{words}, and {size(free)} of memory are free", "end what uses the memory before the run")
    return ok(subject, f"{words}, the CPU's memory holds it")


def _on_gpus(subject: str, words: str, wanted: float, spec: ModelSpec, machine: Machine) -> Finding:
    """`wanted`: bytes of the weights and of what generation needs besides them."""
    seen, least = len(machine.gpus.seen), machine.gpus.least
    count = math.ceil(wanted / least)
    one = f"a GPU of {size(least)}"
    needed = spec.gpus_of_a_copy or seen
    if spec.record.needs_gpu and needed > seen:
        asked = plural(needed, "GPU")
        return problem(
            subject,
            f"{words}; tensor_parallel × data_parallel asks for {asked}, of {seen} here",
            "lower them to the GPUs of this machine",
        )
    spread = min(needed, seen) // spec.data_parallel
    if count <= spread:
        free = sum(gpu.free for gpu in machine.gpus.seen[:spread])
        if wanted > free:
            return note(subject, f"{words}, and {size(free)} of the GPU's memory are free", "end what else uses it")
        return ok(
            subject, f"{words}, " + (f"{one} holds it" if count == 1 else f"{count} GPUs of {size(least)} hold it")
        )
    if count <= seen:
        return problem(
            subject, f"{words}, more than {one} holds with room to work in: {count} do", f"set tensor_parallel: {count}"
        )
    has = f"{plural(count, 'GPU')} of {size(least)} would hold it, of {seen} here"
    remedy = "use a machine with more GPU memory, quantise it (quantization), or name a smaller model"
    return problem(subject, f"{words}: {has}", remedy)
