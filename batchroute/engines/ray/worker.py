"""A worker of a pool: the part of the Ray engine that runs on the cluster's machines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchroute import crash
from batchroute.engines.base import Run, Worker
from batchroute.engines.local import LocalEngine
from batchroute.errors import EXIT_CRASHED, BatchrouteError
from batchroute.progress import NoProgress
from batchroute.storage.receipts import Receipt

Note = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a worker returns for a unit.

    Attributes:
        notes: progress notes, each with event, message and fields.
        error: exit code, message and traceback, if any, of an error that ends the run; then there is no receipt.
    """

    receipt: Receipt | None
    notes: list[Note]
    error: tuple[int, str] | tuple[int, str, str] | None = None


class RayWorker:
    """An actor. It loads its model with its first unit and keeps it loaded."""

    def __init__(
        self,
        elsewhere: Callable[[Any], Run],
        make_worker: Callable[[Any], Worker],
        folder: str,
        environment: dict[str, str],
    ) -> None:
        """
        Args:
            folder: the driver's working directory; relative paths of the job start there.
            environment: variables to set unless this machine sets them.
        """
        os.environ.update({name: value for name, value in environment.items() if name not in os.environ})
        # The folder may be missing on another machine; a job with absolute paths does not need it.
        with contextlib.suppress(OSError):
            os.chdir(folder)
        self._elsewhere, self._make_worker = elsewhere, make_worker
        self._notes = _Notes()
        self._worker: Worker | None = None

    def ready(self) -> None:
        """Returns once the cluster has placed the worker on a machine."""

    def do(self, stage: str, unit: Any) -> UnitResult:
        try:
            if self._worker is None:
                self._worker = self._make_worker(self._elsewhere(LocalEngine(self._notes, one_of_many=True)))
            return UnitResult(self._worker.do(stage, unit), self._notes.take())
        except BatchrouteError as error:
            return UnitResult(None, self._notes.take(), (error.exit_code, str(error)))
        except Exception as error:
            # Ray would show the error's own words, which may quote a prompt.
            what = f"a worker of {stage}: " + crash.sentence(error, "in the run's log")
            return UnitResult(None, self._notes.take(), (EXIT_CRASHED, what, crash.trace(error)))


class _Notes(NoProgress):
    """Keeps progress notes for the driver to show."""

    def __init__(self) -> None:
        self._kept: list[Note] = []

    def note(self, event: str, message: str, **fields: Any) -> None:
        self._kept.append((event, message, fields))

    def take(self) -> list[Note]:
        kept, self._kept = self._kept, []
        return kept
