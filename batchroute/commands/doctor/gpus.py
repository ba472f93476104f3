"""The GPUs that torch sees, or why it sees none."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from batchroute.commands.doctor.finding import Finding, note, ok, problem, size
from batchroute.errors import first_line

_SUBJECT = "gpu"
_HIDDEN = ("", "-1")
# Free memory of an unused GPU: the driver and the display take some.
_FREE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Gpu:
    """
    Attributes:
        total, free: bytes.
        bf16: whether it computes in bfloat16 without emulation.
        supported: whether this torch build has code for it.
    """

    number: int
    name: str
    total: int
    free: int
    capability: tuple[int, int]
    bf16: bool
    supported: bool = True

    @property
    def kind(self) -> tuple[str, int, tuple[int, int]]:
        return self.name, self.total >> 30, self.capability


@dataclass(frozen=True, slots=True)
class Gpus:
    """
    Attributes:
        build: the platform of the torch build: `CUDA 12.8`, `ROCm 6.4`, or empty for a CPU build.
        error: torch's message if it sees no GPU.
        sign: evidence of a GPU that torch does not need: a device file or the command nvidia-smi.
    """

    seen: tuple[Gpu, ...] = ()
    build: str = ""
    error: str = ""
    sign: str = ""

    @property
    def least(self) -> int:
        """Bytes of the GPU with the least memory."""
        return min(gpu.total for gpu in self.seen)


def look() -> Gpus:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    build = f"ROCm {torch.version.hip}" if torch.version.hip else build
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        # Without `init`, hidden GPUs give a count of 0 and no error.
        seen = tuple(_gpu(number, bool(torch.version.hip)) for number in range(torch.cuda.device_count()))
    except (AssertionError, RuntimeError) as error:
        return Gpus(build=build, error=first_line(error), sign=_sign())
    return Gpus(seen, build, sign=_sign())


def _gpu(number: int, is_rocm: bool) -> Gpu:
    import torch

    about = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    capability = (about.major, about.minor)
    with torch.cuda.device(number):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    supported = is_rocm or runs_on(torch.cuda.get_arch_list(), capability)
    return Gpu(number, about.name, total, free, capability, bf16, supported)


def runs_on(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Whether a build for these architectures (`sm_90`, `compute_90`) runs on a GPU of this compute capability.

    `sm_` code runs on GPUs of the same major and the same or a later minor version; `compute_` code on all later GPUs.
    """
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def _sign() -> str:
    files = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    if files:
        return files[0]
    return "nvidia-smi" if shutil.which("nvidia-smi") else ""


def findings(gpus: Gpus, environment: Mapping[str, str]) -> list[Finding]:
    """One line for all GPUs of a kind, and one for each problem."""
    if not gpus.seen:
        return [_none(gpus, environment.get("CUDA_VISIBLE_DEVICES"))]
    findings = []
    for _, group in groupby(gpus.seen, key=lambda gpu: gpu.kind):
        same = list(group)
        one = same[0]
        many = f"{len(same)} × " if len(same) > 1 else ""
        precision = "bf16" if one.bf16 else "no bf16: models run in float16"
        free = min(gpu.free for gpu in same)
        words = f"{many}{one.name}, {size(free)} of {size(one.total)} free, compute capability "
        findings.append(ok(_SUBJECT, f"{words}{one.capability[0]}.{one.capability[1]}, {precision}"))
        findings += _wrong(same, gpus.build)
    return findings


def _wrong(same: list[Gpu], build: str) -> list[Finding]:
    findings = []
    if not same[0].supported:
        findings.append(
            problem(
                _SUBJECT,
                f"this torch ({build}) has no code for a {same[0].name}",
                "install a build of torch that has: https://pytorch.org/get-started/locally",
            )
        )
    taken = [gpu for gpu in same if gpu.free < _FREE_SHARE * gpu.total]
    if taken:
        numbers = ", ".join(str(gpu.number) for gpu in taken)
        findings.append(
            note(
                _SUBJECT,
                f"other processes use the memory of GPU {numbers}",
                "find them with nvidia-smi, and end them, or choose other GPUs by CUDA_VISIBLE_DEVICES",
            )
        )
    return findings


def _none(gpus: Gpus, visible: str | None) -> Finding:
    if not gpus.sign:
        return note(_SUBJECT, "none: models that are loaded here run on the CPU")
    if visible is not None and visible.strip() in _HIDDEN:
        return problem(
            _SUBJECT,
            f"none is used, though {gpus.sign} is there: CUDA_VISIBLE_DEVICES is '{visible.strip()}', which hides all",
            "unset CUDA_VISIBLE_DEVICES, or name the GPUs that the job may use",
        )
    if not gpus.build:
        return problem(
            _SUBJECT,
            f"none is used, though {gpus.sign} is there: this torch is a CPU build",
            "install a CUDA build of torch: https://pytorch.org/get-started/locally",
        )
    if "driver" in gpus.error and "old" in gpus.error:
        return problem(
            _SUBJECT,
            f"none is used, though {gpus.sign} is there: the driver is too old for a torch of {gpus.build}",
            "update the NVIDIA driver, or install a torch for an older CUDA: https://pytorch.org/get-started/locally",
        )
    return problem(
        _SUBJECT,
        f"none is used, though {gpus.sign} is there: {gpus.error or 'torch finds no device'}",
        "see what nvidia-smi says; a container gets GPUs by `docker run --gpus all`, or by nvidia.com/gpu in "
        "the limits of its pod",
    )
