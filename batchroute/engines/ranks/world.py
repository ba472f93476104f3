"""The world: this process's rank and the number of ranks, from the environment that its launcher set."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from batchroute.errors import InputError
from batchroute.hardware.container import limits, whole_cores

Launcher = Literal["none", "batchroute", "torchrun", "accelerate launch", "environment"]

LAUNCHED = "BATCHROUTE_LAUNCHED"
"""Set in ranks that `--processes` starts: batchroute's launcher reads their exit codes. Holds the restarts left."""
NODE_RANK, NODES, MASTER = "BATCHROUTE_NODE_RANK", "BATCHROUTE_NODES", "BATCHROUTE_MASTER"
"""Set in those ranks too if there are several machines: torch's agent knows the ranks of its own machine only."""
DIED = 75
"""Exit code of a rank that batchroute launched, when another rank died: the launcher may start all ranks again."""
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_THREADS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS")


@dataclass(frozen=True, slots=True)
class World:
    """This process's rank among all ranks and among those of its machine.

    Attributes:
        master: `host:port` of rank 0's store; None if there is one rank.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    master: str | None = None
    launcher: Launcher = "none"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> World:
        """The world that this process belongs to.

        Raises:
            InputError: the launcher's variables are incomplete or contradict each other, or the launcher started one
                process although the user asked for several.
        """
        launcher = _launcher(environment)
        if "RANK" not in environment and "WORLD_SIZE" not in environment:
            if launcher == "accelerate launch":
                _refuse_silent_single(_parent_command())
            return cls(launcher=launcher)
        missing = [name for name in _NEEDED if not environment.get(name)]
        if missing and environment.get("WORLD_SIZE") != "1":
            raise InputError(
                f"the environment says that this is one of several ranks, but {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set; set all of {', '.join(_NEEDED)}, or none"
            )
        rank, size = _number(environment, "RANK", 0), _number(environment, "WORLD_SIZE", 1)
        local_rank, local_size = _number(environment, "LOCAL_RANK", 0), _number(environment, "LOCAL_WORLD_SIZE", 1)
        if not rank < size:
            raise InputError(f"RANK is {rank}, but WORLD_SIZE {size} has the ranks 0 to {size - 1}")
        local_size = max(local_size, local_rank + 1)
        if launcher == "batchroute" and NODES in environment:
            nodes, node_rank = _number(environment, NODES, 1), _number(environment, NODE_RANK, 0)
            return cls(node_rank * size + rank, nodes * size, rank, size, environment[MASTER], launcher)
        master = None if size == 1 else f"{environment['MASTER_ADDR']}:{_number(environment, 'MASTER_PORT', 0)}"
        return cls(rank, size, local_rank, local_size, master, launcher)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank reports for all ranks and does the work that only one rank may do."""
        return self.rank == 0

    def expect(self, size: int) -> None:
        """Raises:
        InputError: the launcher started more or fewer ranks than the command line asks for.
        """
        if self.size != size:
            started = f"{self.launcher} has started {self.size}" if self.launcher != "none" else f"there is {self.size}"
            raise InputError(
                f"{size} ranks are expected (--processes and --nodes), but {started}; make the two agree, or leave "
                "the launcher or --processes out"
            )


def thread_limits(local_size: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables, unless set already, that limit each rank to its share of the machine's cores.

    On two cores, two ranks with two threads each are several times slower than two ranks with one thread each.
    """
    each = str(max(1, cores() // local_size))
    return {name: each for name in _THREADS if name not in environment}


def cores() -> int:
    """Number of whole cores that this process may use, by its affinity and its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = limits().cores
    return allowed if quota is None else min(allowed, whole_cores(quota))


def _launcher(environment: Mapping[str, str]) -> Launcher:
    if LAUNCHED in environment:
        return "batchroute"
    if "ACCELERATE_MIXED_PRECISION" in environment:
        return "accelerate launch"
    if "TORCHELASTIC_RUN_ID" in environment:
        return "torchrun"
    return "environment" if "RANK" in environment or "WORLD_SIZE" in environment else "none"


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name) or str(default)
    if not re.fullmatch(r"\d+", value):
        raise InputError(f"{name} is '{value}', not a number")
    return int(value)


def _refuse_silent_single(command: Sequence[str]) -> None:
    """`accelerate launch` starts one process on a machine without GPUs, whatever --num_processes says.

    Raises:
        InputError: `command`, which started this process, asked for several.
    """
    words = [word.replace("-", "_") for part in command for word in part.split("=", 1)]
    asked = next((after for word, after in itertools.pairwise(words) if word == "__num_processes"), "1")
    if asked.isdigit() and int(asked) > 1:
        raise InputError(
            f"accelerate launch was asked for {asked} processes and has started one, as it does without GPUs; start "
            f"them by `batchroute run --processes {asked}` or torchrun"
        )


def _parent_command() -> list[str]:
    import psutil

    try:
        parent = psutil.Process().parent()
        return [] if parent is None else list(parent.cmdline())
    except psutil.Error:
        return []
