"""The workers of one pool of the Ray engine, and which worker does which unit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from batchroute.engines.base import BudgetGuard, ElsewhereRun, Unit, Worker
from batchroute.engines.local import LocalEngine
from batchroute.engines.ray.capacity import Capacity
from batchroute.engines.ray.worker import RayWorker, UnitResult
from batchroute.engines.schedule import Schedule
from batchroute.errors import StoppedError, Terminated, error_of
from batchroute.progress import About, Report, nothing_more

_POLL_SECONDS = 0.5
_SECONDS_TO_START, _SECONDS_BETWEEN_NOTES = 10.0, 300.0
_MOST_LOST_IN_A_ROW = 5
_SAME_EVERYWHERE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY")


class RayWorkers:
    """The workers of one pool, started while units are waiting and stopped when none are.

    A worker gets no unit before the cluster has placed it on a machine: another worker may be free much sooner.
    """

    def __init__(
        self,
        engine: LocalEngine,
        capacity: Callable[[], Capacity],
        run: ElsewhereRun,
        make_worker: Callable[[Any], Worker],
        placed: Callable[[], None],
        seconds_to_start: float = _SECONDS_TO_START,
    ) -> None:
        """
        Args:
            capacity: connects to the cluster and returns its capacity for this pool.
            placed: called when workers of an overlapped stage may ask for machines.
            seconds_to_start: so long after the last worker was placed, the others are waiting for room.
        """
        self._engine, self._find_capacity, self._run, self._make_worker = engine, capacity, run, make_worker
        self._placed, self._seconds_to_start = placed, seconds_to_start
        self._capacity: Capacity | None = None
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}
        self._losses = LossCounter()
        self._last_arrival = self._last_note = 0.0

    def close(self) -> None:
        for worker in [*self._starting.values(), *self._idle, *self._busy.values()]:
            self._stop_worker(worker)
        self._starting, self._idle, self._busy = {}, [], {}

    def run(
        self, stage: str, units: Sequence[Unit], about: About = nothing_more, guard: BudgetGuard | None = None
    ) -> None:
        done = self._run.work.stage(stage).receipts()
        pending = [unit for unit in units if unit.unit not in done]
        if not pending:
            return
        if self._capacity is None:
            self._capacity = self._find_capacity()
            self._ray = self._capacity.ray
        self._last_arrival, self._last_note = time.monotonic(), 0.0
        schedule = Schedule(stage, pending)
        with self._engine.progress.stage(stage, len(pending) + len(done), list(done.values()), about) as report:
            try:
                while schedule.left:
                    self._engine.check()
                    self._resize(self._capacity, schedule)
                    self._assign(stage, schedule, guard)
                    self._collect_results(stage, schedule, guard, report)
                    self._report_waiting(stage, self._capacity)
            except StoppedError:
                # Running units are half done, which may be an hour of a GPU: let them finish.
                with suppress(StoppedError):
                    while self._busy and not isinstance(self._engine.stopped_by, Terminated):
                        self._collect_results(stage, schedule, guard, report)
                raise

    def _resize(self, capacity: Capacity, schedule: Schedule[Unit]) -> None:
        """Start or stop workers: as many as pending units, within the pool's limits."""
        wanted = min(capacity.workers(), schedule.left)
        while len(self._idle) + len(self._busy) + len(self._starting) < wanted:
            worker = self._start_worker(capacity)
            self._starting[worker.ready.remote()] = worker
        if not schedule.waiting:
            for worker in self._starting.values():
                self._stop_worker(worker)
            self._starting = {}
            while self._idle and len(self._idle) + len(self._busy) > capacity.spec.min:
                self._stop_worker(self._idle.pop())

    def _assign(self, stage: str, schedule: Schedule[Unit], guard: BudgetGuard | None) -> None:
        while self._idle and (unit := schedule.next()) is not None:
            if guard is not None and not guard.before(stage, unit):
                return
            worker = self._idle.pop(0)
            schedule.give(worker)
            self._busy[worker.do.remote(stage, unit)] = worker

    def _collect_results(self, stage: str, schedule: Schedule[Unit], guard: BudgetGuard | None, report: Report) -> None:
        errors = self._ray.exceptions
        ready, _ = self._ray.wait([*self._busy, *self._starting], timeout=_POLL_SECONDS)
        for answer in ready:
            is_new = answer in self._starting
            worker = self._starting.pop(answer) if is_new else self._busy.pop(answer)
            try:
                result: UnitResult | None = self._ray.get(answer)
            except errors.RayTaskError:
                # A defect. The worker is alive, and `close` stops it with the others.
                self._idle.append(worker)
                raise
            except errors.RayError as error:
                self._handle_loss(stage, schedule, worker, error)
                continue
            self._idle.append(worker)
            if is_new:
                self._last_arrival = time.monotonic()
            if result is not None:
                self._handle_result(stage, schedule, guard, report, worker, result)

    def _handle_result(
        self,
        stage: str,
        schedule: Schedule[Unit],
        guard: BudgetGuard | None,
        report: Report,
        worker: Any,
        result: UnitResult,
    ) -> None:
        for event, message, fields in result.notes:
            self._engine.progress.note(event, message, **fields)
        if result.error is not None:
            raise error_of(*result.error)
        assert result.receipt is not None
        self._losses.in_a_row = 0
        unit = schedule.done(worker)
        if guard is not None:
            guard.after(stage, unit, result.receipt)
        report(result.receipt)

    def _report_waiting(self, stage: str, capacity: Capacity) -> None:
        """Call `placed` when no more workers of this pool will start soon; note why none has started at all."""
        now = time.monotonic()
        overdue = now - self._last_arrival >= self._seconds_to_start
        if not self._starting or (overdue and (self._idle or self._busy)):
            self._placed()
        elif overdue and now - self._last_note >= _SECONDS_BETWEEN_NOTES:
            self._last_note = now
            self._engine.progress.note("waiting", f"{stage}: waiting for room: {capacity.describe()}", stage=stage)

    def _handle_loss(self, stage: str, schedule: Schedule[Unit], worker: Any, error: Exception) -> None:
        """Raises:
        StoppedError: too many workers died, of one unit or while they started.
        """
        self._stop_worker(worker)
        why = _reason(error)
        unit = schedule.lost(worker, why)
        then = "another one is started" if unit is None else f"another one does its unit {unit.unit}"
        self._engine.progress.note("lost", f"{stage}: a worker is lost ({why}); {then}", stage=stage, why=why)
        self._losses.count(worker)
        if self._losses.in_a_row == _MOST_LOST_IN_A_ROW:
            raise StoppedError(
                f"{_MOST_LOST_IN_A_ROW} workers of {stage} died one after the other, and none did a unit: {why}; fix "
                "the cluster and run again"
            )

    def _start_worker(self, capacity: Capacity) -> Any:
        environment = {name: os.environ[name] for name in _SAME_EVERYWHERE if name in os.environ}
        actor = self._ray.remote(RayWorker).options(max_restarts=0, **capacity.needs)
        worker = actor.remote(self._run.elsewhere(), self._make_worker, os.getcwd(), environment)
        self._losses.started(worker)
        return worker

    def _stop_worker(self, worker: Any) -> None:
        self._ray.kill(worker)


class LossCounter:
    """Counts deaths of workers since the last finished unit. Workers that die with one machine count as one."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self._rounds = 0
        self._round_of: dict[Any, int] = {}

    def started(self, worker: Any) -> None:
        self._round_of[worker] = self._rounds

    def count(self, worker: Any) -> None:
        if self._round_of.pop(worker) == self._rounds:
            self._rounds += 1
            self.in_a_row += 1


def _reason(error: Exception) -> str:
    """The useful sentence of Ray's error: the first one of its last line, which also is a traceback's error line."""
    last = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
    sentence = last.split(". ")[0].rstrip(".")
    return sentence[0].lower() + sentence[1:] if sentence.startswith("The ") else sentence
