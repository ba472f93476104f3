"""Ray clusters on this machine, and units whose workers start in a second and act as a test asks."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from batchroute.errors import InputError, StoppedError
from batchroute.storage.objects import folder_at
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.workdir import Workdir
from tests.crash.ranks import wait_for

# Loopback only, and nothing in the home directory. Ray reads these when it is imported.
ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "a-token-of-these-tests-alone",
    "RAY_USAGE_STATS_ENABLED": "0",
    # With the default niceness of 15, workers take ten seconds to start on busy cores instead of one.
    "RAY_worker_niceness": "0",
}
OBJECTS = 80 << 20
SECONDS = 120.0
"""The longest that a worker waits for an event."""


@contextmanager
def cluster(cpus: int) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` of one machine with `cpus` CPUs, whatever this machine has."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ALONE.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        head = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECTS}
        started = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield started
        finally:
            started.shutdown()


@dataclass(frozen=True)
class Task:
    """A unit.

    Attributes:
        acts: what its worker does in the end: a name of `_ACTS`.
        after: a file in the run's folder that the worker waits for first.
        together: the number of processes that must have begun units of the stage before the worker goes on.
    """

    unit: str
    acts: str = "work"
    after: str = ""
    together: int = 0


NEVER = "never"
"""A file that no test makes: a task after it ends with its worker."""


def tasks(number: int, acts: str = "work", after: str = "", together: int = 0, **others: str) -> list[Task]:
    """`number` tasks that are alike, except that task 3 acts otherwise if `_3="die"`."""
    return [Task(f"{i:05d}", others.get(f"_{i}", acts), after, together) for i in range(number)]


@dataclass(frozen=True)
class TinyRun:
    """A run that consists of a work folder."""

    folder: str
    work: Workdir = field(compare=False)

    @classmethod
    def at(cls, folder: str, engine: Any = None) -> TinyRun:
        return cls(folder, Workdir(folder_at(f"{folder}/out"), "run"))

    def elsewhere(self) -> Callable[[Any], TinyRun]:
        return functools.partial(TinyRun.at, self.folder)

    def begun(self, stage: str = "small") -> list[tuple[str, int]]:
        """The unit and the process of each time that a unit was begun."""
        log = Path(self.folder) / f"{stage}.log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [(unit, int(pid)) for unit, pid in lines]

    def done(self, stage: str = "small") -> dict[str, Receipt]:
        return self.work.stage(stage).receipts()

    def make(self, file: str) -> None:
        """Let tasks after this file go on."""
        (Path(self.folder) / file).touch()

    def exists(self, file: str) -> bool:
        return (Path(self.folder) / file).exists()


class Doer:
    """Does tasks."""

    units_at_once = 1

    def __init__(self, run: TinyRun) -> None:
        self._run = run

    def do(self, stage: str, task: Task) -> Receipt:
        with open(Path(self._run.folder) / f"{stage}.log", "a") as log:
            log.write(f"{task.unit} {os.getpid()}\n")
        wait_for(lambda: not task.after or self._run.exists(task.after), SECONDS)
        wait_for(lambda: len({pid for _, pid in self._run.begun(stage)}) >= task.together, SECONDS)
        _ACTS[task.acts]()
        number = int(task.unit)
        facts = Facts(run_id="run", unit=task.unit, rows=1, first=number, last=number)
        return self._run.work.stage(stage).commit(facts, _SCHEMA, [])

    def close(self) -> None:
        pass


class BrokenDoer(Doer):
    """Its model cannot be loaded."""

    def __init__(self, run: TinyRun) -> None:
        raise InputError("no model at models/nowhere; fix models.small.model")


class Unloadable:
    """Cannot be unpickled in a worker, as if its machine lacked a package."""

    def __init__(self) -> None:
        self.driver = os.getpid()

    def __call__(self, run: TinyRun) -> Doer:
        raise AssertionError

    def __reduce__(self) -> Any:
        return _lacking, (self.driver,)


def _lacking(driver: int) -> None:
    if os.getpid() != driver:
        raise ModuleNotFoundError("No module named 'lacking'")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    raise StoppedError("all rows failed alike; fix it and run again")


def _err() -> None:
    raise KeyError("a defect")


def _nothing() -> None:
    pass


_SCHEMA = pa.schema([pa.field("position", pa.int64())])
_ACTS: dict[str, Callable[[], None]] = {"work": _nothing, "die": _die, "stop": _stop, "err": _err}


@dataclass
class Driver:
    """`batchroute run --engine ray` in a process of its own."""

    process: subprocess.Popen[bytes]
    printed: Path

    @classmethod
    def start(cls, job: str, printed: Path, *words: str, cwd: Path | None = None, **environment: str) -> Driver:
        """Start it.

        Args:
            printed: gets what it writes to stdout and stderr.
            environment: besides that of this process and `ALONE`.
        """
        command = [sys.executable, "-m", "batchroute", "run", job, "--engine", "ray", *words]
        here = {"PYTHONPATH": os.getcwd(), "HF_HUB_OFFLINE": "1", **os.environ, **ALONE, **environment}
        with open(printed, "wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=here, cwd=cwd)
        return cls(process, printed)

    def output(self) -> str:
        return self.printed.read_text()

    def events(self, kind: str) -> list[Mapping[str, Any]]:
        """The events of one kind in its JSON log."""
        lines = [json.loads(line) for line in self.output().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == kind]

    def join(self, seconds: float = SECONDS) -> int:
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


def workers(started: Any) -> set[int]:
    """The processes of the engine's workers on the first machine of a cluster."""
    (raylet,) = started.head_node.all_processes["raylet"]
    pids = set()
    for process in psutil.Process(raylet.process.pid).children():
        with suppress(psutil.NoSuchProcess, IndexError):
            if "RayWorker" in process.cmdline()[0]:
                pids.add(process.pid)
    return pids
