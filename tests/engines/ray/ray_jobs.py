"""Clusters of Ray on this machine, and work for their workers that starts in a second and does what a test asks for."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
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

# All is on the loopback, and nothing is written to the home directory. Read as Ray is imported.
ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "a-token-of-these-tests-alone",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Its workers are nice to all else (15), and on busy cores start in ten seconds instead of one.
    "RAY_worker_niceness": "0",
}
OBJECTS = 80 << 20


@contextmanager
def cluster(cpus: int) -> Iterator[Any]:
    """A cluster of one machine with so many CPUs, whatever this one has; a `ray.cluster_utils.Cluster`."""
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
        acts: what its worker does before it is done: a name of `_ACTS`.
    """

    unit: str
    acts: str = "work"
    seconds: float = 0.0


def tasks(number: int, acts: str = "work", seconds: float = 0.0, **others: str) -> list[Task]:
    """`number` tasks that act alike, but for others: `_3="die"`."""
    return [Task(f"{i:05d}", others.get(f"_{i}", acts), seconds) for i in range(number)]


@dataclass(frozen=True)
class TinyRun:
    """A run that is a work folder."""

    folder: str
    work: Workdir = field(compare=False)

    @classmethod
    def at(cls, folder: str, engine: Any = None) -> TinyRun:
        return cls(folder, Workdir(folder_at(f"{folder}/out"), "run"))

    def elsewhere(self) -> Callable[[Any], TinyRun]:
        return functools.partial(TinyRun.at, self.folder)

    def begun(self, stage: str = "small") -> list[tuple[str, int]]:
        """Each time that a unit was begun: its name, and the process that it was in."""
        log = Path(self.folder) / f"{stage}.log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [(unit, int(pid)) for unit, pid in lines]

    def done(self, stage: str = "small") -> dict[str, Receipt]:
        return self.work.stage(stage).receipts()


class Doer:
    """Does tasks."""

    units_at_once = 1

    def __init__(self, run: TinyRun) -> None:
        self._run = run

    def do(self, stage: str, task: Task) -> Receipt:
        with open(Path(self._run.folder) / f"{stage}.log", "a") as log:
            log.write(f"{task.unit} {os.getpid()}\n")
        time.sleep(task.seconds)
        _ACTS[task.acts]()
        number = int(task.unit)
        facts = Facts(run_id="run", unit=task.unit, rows=1, first=number, last=number)
        return self._run.work.stage(stage).commit(facts, _SCHEMA, [])

    def close(self) -> None:
        pass


class BrokenDoer(Doer):
    """Cannot load what it needs."""

    def __init__(self, run: TinyRun) -> None:
        raise InputError("no model at models/nowhere; mend models.small.model")


class Unloadable:
    """Cannot even be brought to a worker, whose machine lacks a package."""

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
    raise StoppedError("all rows failed alike; mend it and run again")


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

    def said(self) -> str:
        return self.printed.read_text()

    def events(self, kind: str) -> list[Mapping[str, Any]]:
        """Those of its JSON log."""
        lines = [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == kind]

    def join(self, seconds: float = 60.0) -> int:
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


def workers(started: Any) -> set[int]:
    """The processes of the workers of this engine that the first machine of a cluster has."""
    (raylet,) = started.head_node.all_processes["raylet"]
    found = set()
    for process in psutil.Process(raylet.process.pid).children():
        with suppress(psutil.NoSuchProcess, IndexError):
            if "RayWorker" in process.cmdline()[0]:
                found.add(process.pid)
    return found
