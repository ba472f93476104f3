"""Units for workers on a cluster, which act as a test asks.

A worker imports this module and no more than it needs: torch would cost each of them seconds.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchroute.errors import InputError, StoppedError
from batchroute.storage.objects import folder_at
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.workdir import Workdir
from tests.support.waiting import wait_for

SECONDS = 120.0
"""The longest that a worker waits for an event."""


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
