"""One worker of a pool: the part of the Ray engine that runs on the cluster's machines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from batchroute.engines.base import Run, Worker
from batchroute.engines.local import LocalEngine
from batchroute.errors import BatchrouteError
from batchroute.progress import About, Report, nothing_more
from batchroute.storage.receipts import Receipt

Note = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Said:
    """What a worker says of a unit.

    Attributes:
        notes: event, message and fields of each.
        error: exit code and words of what ends the run, instead of a receipt.
    """

    receipt: Receipt | None
    notes: list[Note]
    error: tuple[int, str] | None = None


class RayWorker:
    """An actor. Loads what it needs with its first unit, and keeps it."""

    def __init__(
        self,
        elsewhere: Callable[[Any], Run],
        make_worker: Callable[[Any], Worker],
        folder: str,
        environment: dict[str, str],
    ) -> None:
        """
        Args:
            folder: the driver's working directory, which relative paths of the job are of.
            environment: set where it is not set here.
        """
        os.environ.update({name: value for name, value in environment.items() if name not in os.environ})
        # On another machine it need not be there: then the job has no relative paths.
        with contextlib.suppress(OSError):
            os.chdir(folder)
        self._elsewhere, self._make_worker = elsewhere, make_worker
        self._notes = _Notes()
        self._worker: Worker | None = None

    def ready(self) -> None:
        """Answers when the worker has a place."""

    def do(self, stage: str, unit: Any) -> Said:
        try:
            if self._worker is None:
                self._worker = self._make_worker(self._elsewhere(LocalEngine(self._notes)))
            return Said(self._worker.do(stage, unit), self._notes.take())
        except BatchrouteError as error:
            return Said(None, self._notes.take(), (error.exit_code, str(error)))


@dataclass
class _Notes:
    """Progress that the driver shows."""

    kept: list[Note] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, units: int, done: Sequence[Receipt], about: About = nothing_more) -> Iterator[Report]:
        yield lambda receipt: None

    def pulse(self, name: str, unit: str, rows: int, of: int) -> None:
        pass

    def note(self, event: str, message: str, **fields: Any) -> None:
        self.kept.append((event, message, fields))

    def take(self) -> list[Note]:
        kept, self.kept = self.kept, []
        return kept
