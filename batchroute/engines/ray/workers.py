"""The workers of one pool of the Ray engine, and who of them is at what."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from batchroute.engines.base import BudgetGuard, ElsewhereRun, Unit, Worker
from batchroute.engines.local import LocalEngine
from batchroute.engines.ray.capacity import Capacity
from batchroute.engines.ray.worker import RayWorker, Said
from batchroute.engines.schedule import Schedule
from batchroute.errors import StoppedError, Terminated, error_of
from batchroute.progress import About, Report, nothing_more

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_START, _SECONDS_BETWEEN_NOTES = 10.0, 300.0
_MOST_LOST_IN_A_ROW = 5
_SAME_EVERYWHERE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY")


class RayWorkers:
    """The workers of one pool: hired as there is something to do for them, dismissed as there is not.

    Nothing is handed to a worker before the cluster has found it a place: another one may be free much sooner.
    """

    def __init__(
        self,
        engine: LocalEngine,
        capacity: Callable[[], Capacity],
        run: ElsewhereRun,
        make_worker: Callable[[Any], Worker],
        placed: Callable[[], None],
    ) -> None:
        """
        Args:
            room: of the cluster, for which there must be one.
            seated: told when those who come later may look for a place.
        """
        self._engine, self._capacity_of_pool, self._run, self._make_worker = engine, capacity, run, make_worker
        self._placed = placed
        self._capacity: Capacity | None = None
        self._coming: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}
        self._losses = _Losses()
        self._last_arrival = self._last_note = 0.0

    def close(self) -> None:
        for worker in [*self._coming.values(), *self._idle, *self._busy.values()]:
            self._dismiss(worker)
        self._coming, self._idle, self._busy = {}, [], {}

    def run(
        self, stage: str, units: Sequence[Unit], about: About = nothing_more, guard: BudgetGuard | None = None
    ) -> None:
        done = self._run.work.stage(stage).receipts()
        pending = [unit for unit in units if unit.unit not in done]
        if not pending:
            return
        if self._capacity is None:
            self._capacity = self._capacity_of_pool()
            self._ray = self._capacity.ray
        self._last_arrival, self._last_note = time.monotonic(), 0.0
        schedule = Schedule(stage, pending)
        with self._engine.progress.stage(stage, len(pending) + len(done), list(done.values()), about) as report:
            try:
                while schedule.left:
                    self._engine.check()
                    self._size(self._capacity, schedule)
                    self._hand_out(stage, schedule, guard)
                    self._collect(stage, schedule, guard, report)
                    self._look_at_the_waiting(stage, self._capacity)
            except StoppedError:
                # What is in hand is half done: an hour's work of a GPU.
                with suppress(StoppedError):
                    while self._busy and not isinstance(self._engine.stopped_by, Terminated):
                        self._collect(stage, schedule, guard, report)
                raise

    def _size(self, capacity: Capacity, schedule: Schedule[Unit]) -> None:
        """As many workers as there are units, within the bounds of the pool."""
        wanted = min(capacity.workers(), schedule.left)
        here = len(self._idle) + len(self._busy)
        while here + len(self._coming) < wanted:
            worker = self._hire(capacity)
            self._coming[worker.ready.remote()] = worker
        if not schedule.waiting:
            for worker in self._coming.values():
                self._dismiss(worker)
            self._coming = {}
            while self._idle and len(self._idle) + len(self._busy) > capacity.spec.min:
                self._dismiss(self._idle.pop())

    def _hand_out(self, stage: str, schedule: Schedule[Unit], guard: BudgetGuard | None) -> None:
        while self._idle and (unit := schedule.next()) is not None:
            if guard is not None:
                guard.before(stage, unit)
            worker = self._idle.pop(0)
            schedule.give(worker)
            self._busy[worker.do.remote(stage, unit)] = worker

    def _collect(self, stage: str, schedule: Schedule[Unit], guard: BudgetGuard | None, report: Report) -> None:
        errors = self._ray.exceptions
        ready, _ = self._ray.wait([*self._busy, *self._coming], timeout=_SECONDS_BETWEEN_LOOKS)
        for answer in ready:
            comes = answer in self._coming
            worker = self._coming.pop(answer) if comes else self._busy.pop(answer)
            try:
                said: Said | None = self._ray.get(answer)
            except errors.RayTaskError:
                # A defect. The worker is alive, and to be dismissed with the others.
                self._idle.append(worker)
                raise
            except errors.RayError as error:
                self._lose(stage, schedule, worker, error)
                continue
            self._idle.append(worker)
            if comes:
                self._last_arrival = time.monotonic()
            if said is not None:
                self._take(stage, schedule, guard, report, worker, said)

    def _take(
        self, stage: str, schedule: Schedule[Unit], guard: BudgetGuard | None, report: Report, worker: Any, said: Said
    ) -> None:
        for event, message, fields in said.notes:
            self._engine.progress.note(event, message, **fields)
        if said.error is not None:
            raise error_of(*said.error)
        assert said.receipt is not None
        self._losses.in_a_row = 0
        unit = schedule.done(worker)
        if guard is not None:
            guard.after(stage, unit, said.receipt)
        report(said.receipt)

    def _look_at_the_waiting(self, stage: str, capacity: Capacity) -> None:
        """Let others look for room when these have all, and tell why not even one of them has started."""
        now, here = time.monotonic(), self._idle or self._busy
        still = now - self._last_arrival >= _SECONDS_TO_START
        if not self._coming or (here and still):
            self._placed()
        elif still and now - self._last_note >= _SECONDS_BETWEEN_NOTES:
            self._last_note = now
            self._engine.progress.note("waiting", f"{stage}: waiting for room: {capacity.words()}", stage=stage)

    def _lose(self, stage: str, schedule: Schedule[Unit], worker: Any, error: Exception) -> None:
        """Raises:
        StoppedError: a unit, or the start of a worker, has killed too many of them.
        """
        self._dismiss(worker)
        why = _why(error)
        unit = schedule.lost(worker, why)
        then = "another one is started" if unit is None else f"another one does its unit {unit.unit}"
        self._engine.progress.note("lost", f"{stage}: a worker is lost ({why}); {then}", stage=stage, why=why)
        self._losses.count(worker)
        if self._losses.in_a_row == _MOST_LOST_IN_A_ROW:
            raise StoppedError(
                f"{_MOST_LOST_IN_A_ROW} workers of {stage} died one after the other, and none did a unit: {why}; mend "
                "the cluster and run again"
            )

    def _hire(self, capacity: Capacity) -> Any:
        environment = {name: os.environ[name] for name in _SAME_EVERYWHERE if name in os.environ}
        actor = self._ray.remote(RayWorker).options(max_restarts=0, **capacity.needs)
        worker = actor.remote(self._run.elsewhere(), self._make_worker, os.getcwd(), environment)
        self._losses.hired(worker)
        return worker

    def _dismiss(self, worker: Any) -> None:
        self._ray.kill(worker)


class _Losses:
    """How often workers died without a unit done in between. Those lost with one machine count once."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self._rounds = 0
        self._hired_in: dict[Any, int] = {}

    def hired(self, worker: Any) -> None:
        self._hired_in[worker] = self._rounds

    def count(self, worker: Any) -> None:
        if self._hired_in.pop(worker) == self._rounds:
            self._rounds += 1
            self.in_a_row += 1


def _why(error: Exception) -> str:
    """The sentence of Ray's many that says it: in the last line, which is that of the traceback where there is one."""
    last = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
    sentence = last.split(". ")[0].rstrip(".")
    return sentence[0].lower() + sentence[1:] if sentence.startswith("The ") else sentence
