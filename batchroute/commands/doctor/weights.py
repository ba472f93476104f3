"""Whether a model's weights fit into memory: arithmetic on files' headers, without loading anything."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchroute.commands.doctor.finding import Finding, counted, note, problem, size, well
from batchroute.commands.doctor.machine import Machine
from batchroute.generators.settings import ModelSpec
from batchroute.hardware.devices import precision

# Weights alone generate nothing: keys and values of the rows in hand, activations, workspaces.
_ROOM = 1.2
_HEADER_BYTES = 8
_QUANTIZED = {"int8": 1.0, "nf4": 0.5, "fp4": 0.5, "bitsandbytes": 0.5, "fp8": 1.0}


@dataclass(frozen=True, slots=True)
class Weights:
    """
    Attributes:
        parameters: their number; None of files that do not say, or that hold packed values.
        bytes: of the files.
    """

    parameters: int | None
    bytes: int


def weights_in(folder: Path) -> Weights:
    """What a model's folder holds: safetensors where there are some, else a pickle."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        pickles = [path for path in folder.glob("*.bin") if path.name != "training_args.bin"]
        return Weights(None, sum(path.stat().st_size for path in pickles))
    parameters = sum(_parameters(path) for path in files)
    packed = "quantization_config" in _config(folder)
    return Weights(None if packed else parameters, sum(path.stat().st_size for path in files))


def _parameters(path: Path) -> int:
    """Of one file, by its header: eight bytes with the header's length, and then JSON."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_BYTES), "little")
        header: dict[str, Any] = json.loads(stream.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _config(folder: Path) -> Mapping[str, Any]:
    found = json.loads((folder / "config.json").read_text())
    assert isinstance(found, dict)
    return found


def needed(folder: Path, spec: ModelSpec, on_gpu: bool) -> tuple[int, str]:
    """Bytes of a model's weights as they are loaded, and in which precision, in words."""
    import torch

    found, config = weights_in(folder), _config(folder)
    if found.parameters is None:
        return found.bytes, "as it is saved"
    if spec.quantization in _QUANTIZED:
        return int(found.parameters * _QUANTIZED[spec.quantization]), f"in {spec.quantization}"
    saved = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = precision(spec.dtype, device, saved if isinstance(saved, torch.dtype) else None)
    return found.parameters * dtype.itemsize, f"in {str(dtype).removeprefix('torch.')}"


def fit(subject: str, place: str, taken: int, how: str, spec: ModelSpec, machine: Machine, ranks: int = 1) -> Finding:
    """Whether this machine holds a model, in words.

    Args:
        place: the model, and where it is.
        taken: bytes of its weights, `how` they are loaded.
        ranks: of this machine, each of which loads its own copy.
    """
    words = f"{place}: {size(taken)} {how}"
    if machine.gpus.seen:
        return _on_gpus(subject, words, taken * _ROOM, spec, machine)
    if spec.backend == "vllm":
        return problem(
            subject, f"{words}; the backend vllm needs a GPU", "use the backend transformers, or another machine"
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
    return well(subject, f"{words}, the CPU's memory holds it")


def _on_gpus(subject: str, words: str, wanted: float, spec: ModelSpec, machine: Machine) -> Finding:
    """`wanted` is in bytes, with room to work in."""
    seen, least = len(machine.gpus.seen), machine.gpus.least
    count = math.ceil(wanted / least)
    one = f"a GPU of {size(least)}"
    if spec.backend == "vllm" and spec.tensor_parallel * spec.data_parallel > seen:
        asked = counted(spec.tensor_parallel * spec.data_parallel, "GPU")
        return problem(
            subject,
            f"{words}; tensor_parallel × data_parallel asks for {asked}, of {seen} here",
            "lower them to the GPUs of this machine",
        )
    spread = spec.tensor_parallel if spec.backend == "vllm" else seen if spec.device_map is not None else 1
    if count <= spread:
        free = sum(gpu.free for gpu in machine.gpus.seen[:spread])
        if wanted > free:
            return note(subject, f"{words}, and {size(free)} of the GPU's memory are free", "end what else uses it")
        return well(
            subject, f"{words}, " + (f"{one} holds it" if count == 1 else f"{count} GPUs of {size(least)} hold it")
        )
    if count <= seen:
        key = f"tensor_parallel: {count}" if spec.backend == "vllm" else "device_map: auto"
        return problem(subject, f"{words}, more than {one} holds with room to work in: {count} do", f"set {key}")
    has = f"{counted(count, 'GPU')} of {size(least)} would hold it, of {seen} here"
    remedy = "use a machine with more GPU memory, quantise it (quantization), or name a smaller model"
    return problem(subject, f"{words}: {has}", remedy)
