"""The machine: the cores, memory, disks and GPUs that this process may use."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from batchroute import models
from batchroute.commands.doctor import gpus
from batchroute.commands.doctor.finding import Finding, note, ok, problem, size
from batchroute.commands.doctor.gpus import Gpus
from batchroute.engines.ranks import world
from batchroute.hardware.container import Limits, limits, whole_cores
from batchroute.words import plural

_LITTLE_MEMORY = 2 << 30
_LITTLE_DISK, _NO_DISK = 6 << 30, 100 << 20
_LITTLE_SHARED = 1 << 30


class Machine:
    """The resources that this process may use; each is looked up when it is first read."""

    def __init__(
        self, environment: Mapping[str, str] = os.environ, container: Limits | None = None, seen: Gpus | None = None
    ) -> None:
        """
        Args:
            container, seen: limits of the control group, and GPUs; looked up unless given.
        """
        self.environment = environment
        self.container = limits() if container is None else container
        self._seen = seen

    @functools.cached_property
    def gpus(self) -> Gpus:
        return gpus.look() if self._seen is None else self._seen

    @property
    def cores(self) -> float:
        """By the container's quota and the process's CPU affinity."""
        allowed = float(world.cores())
        return allowed if self.container.cores is None else min(allowed, self.container.cores)

    @property
    def memory(self) -> tuple[int, int]:
        """Free bytes and total bytes."""
        memory = psutil.virtual_memory()
        if self.container.memory is None or self.container.memory >= memory.total:
            return memory.available, memory.total
        return min(memory.available, max(0, self.container.memory - self.container.used)), self.container.memory


def cores(machine: Machine, ranks: int = 1, threads: int | None = None) -> Iterator[Finding]:
    """
    Args:
        ranks: processes of the run on this machine.
        threads: torch's threads in each process; read from torch unless given.
    """
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    usable, total = machine.cores, os.cpu_count() or 1
    words = f"{usable:g} of {total} usable" if usable < total else plural(total, "core")
    words += f" (the container's quota is {machine.container.cores:g})" if machine.container.cores == usable else ""
    variable = machine.environment.get("OMP_NUM_THREADS")
    words += f", torch takes {plural(threads, 'thread')}" + (f" (OMP_NUM_THREADS={variable})" if variable else "")
    words += f" in each of {ranks} ranks" if ranks > 1 else ""
    if threads * ranks <= whole_cores(usable):
        yield ok("cores", words)
        return
    each = max(1, whole_cores(usable) // ranks)
    yield note("cores", f"{words}: several times slower than one thread per core", f"set OMP_NUM_THREADS={each}")


def memory(machine: Machine) -> Finding:
    free, total = machine.memory
    words = f"{size(free)} of {size(total)} free"
    whole = psutil.virtual_memory().total
    words += f" (the container's limit; the machine has {size(whole)})" if total < whole else ""
    if free < _LITTLE_MEMORY:
        return note(
            "memory", words, "end what uses it, or give the container more: a job takes 0.5 GiB besides its models"
        )
    return ok("memory", words)


def shared_total(path: Path = Path("/dev/shm")) -> int | None:
    """Bytes of shared memory; None on a system without it."""
    return shutil.disk_usage(path).total if path.is_dir() else None


def shared_memory(total: int | None, spread: bool = False) -> Finding:
    """
    Args:
        total: as from `shared_total`.
        spread: whether a model of the job is spread over several GPUs, whose processes use shared memory.
    """
    if total is None:
        return note("shared", "there is no /dev/shm, which models on several GPUs need")
    words = f"/dev/shm has {size(total)}"
    if total >= _LITTLE_SHARED:
        return ok("shared", words)
    words += ", and a model that is spread over GPUs needs more"
    remedy = "docker run --shm-size=8g; of a pod an emptyDir with medium: Memory, mounted at /dev/shm"
    return problem("shared", words, remedy) if spread else note("shared", words, remedy)


def disks(places: Mapping[str, Path]) -> Iterator[Finding]:
    """Free space: one line per disk.

    Args:
        places: folders, which need not exist yet, by their purpose.
    """
    by_disk: dict[int, list[str]] = {}
    existing = {name: _existing(place) for name, place in places.items()}
    for name, folder in existing.items():
        by_disk.setdefault(folder.stat().st_dev, []).append(name)
    for names in by_disk.values():
        free = shutil.disk_usage(existing[names[0]]).free
        words = f"{size(free)} free for " + ", ".join(f"{name} ({places[name]})" for name in names)
        remedy = "make room, or choose another disk by XDG_CACHE_HOME, HF_HOME and TMPDIR"
        if free < _NO_DISK:
            yield problem("disk", words, remedy)
        elif free < _LITTLE_DISK:
            yield note("disk", f"{words}; the embedded models of the demo alone take up to 5 GiB", remedy)
        else:
            yield ok("disk", words)
    for name, folder in existing.items():
        if not os.access(folder, os.W_OK):
            yield problem("disk", f"{folder}, for {name}, may not be written", "choose another folder, or its owner")


def usual_places() -> dict[str, Path]:
    """The folders for models, for the hub's cache and for temporary files."""
    from huggingface_hub import constants

    return {
        "models": models.cache_dir(),
        "the hub's": Path(constants.HF_HUB_CACHE),
        "temporary files": Path(tempfile.gettempdir()),
    }


def _existing(path: Path) -> Path:
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    return path
