"""The workers of one pool of the Ray engine, and who of them is at what."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from batchroute.engines.base import ElsewhereRun, Gate, Unit, Worker
from batchroute.engines.local import LocalEngine
from batchroute.engines.pools import PoolSpec
from batchroute.engines.ray_worker import RayWorker, Said
from batchroute.engines.schedule import Schedule
from batchroute.errors import StoppedError, Terminated, error_of
from batchroute.progress import About, Report, nothing_more

_SECONDS_BETWEEN_LOOKS = 0.5
_MOST_LOST_IN_A_ROW = 5
_SAME_EVERYWHERE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY")


class RayCrew:
    """The workers of one pool: hired as there is something to do for them, dismissed as there is not.

    Nothing is handed to a worker before the cluster has found it a place: another one may be free much sooner.
    """

    def __init__(
        self,
        engine: LocalEngine,
        connect: Callable[[], Any],
        run: ElsewhereRun,
        recruit: Callable[[Any], Worker],
        spec: PoolSpec,
        gpus: int | None,
    ) -> None:
        """
        Args:
            connect: the module `ray`, connected to the cluster.
        """
        self._engine, self._connect, self._run, self._recruit = engine, connect, run, recruit
        self._spec, self._gpus = spec, gpus
        self._ray: Any = None
        self._needs: dict[str, Any] = {}
        self._coming: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}
        self._lost_in_a_row = 0

    def close(self) -> None:
        for worker in [*self._coming.values(), *self._idle, *self._busy.values()]:
            self._dismiss(worker)
        self._coming, self._idle, self._busy = {}, [], {}

    def carry_out(
        self, stage: str, units: Sequence[Unit], about: About = nothing_more, gate: Gate | None = None
    ) -> None:
        done = self._run.work.stage(stage).receipts()
        pending = [unit for unit in units if unit.unit not in done]
        if not pending:
            return
        if self._ray is None:
            self._ray = self._connect()
            self._needs = _needs(self._ray, self._spec, self._gpus)
        schedule = Schedule(stage, pending)
        with self._engine.progress.stage(stage, len(pending) + len(done), list(done.values()), about) as report:
            try:
                while schedule.left:
                    self._engine.check()
                    self._size(schedule)
                    self._hand_out(stage, schedule, gate)
                    self._collect(stage, schedule, gate, report)
            except StoppedError:
                # What is in hand is half done: an hour's work of a GPU.
                with suppress(StoppedError):
                    while self._busy and not isinstance(self._engine.stopped_by, Terminated):
                        self._collect(stage, schedule, gate, report)
                raise

    def _size(self, schedule: Schedule[Unit]) -> None:
        """As many workers as there are units, within the bounds of the pool."""
        wanted = min(self._spec.max or _room(self._ray, self._needs), schedule.left)
        here = len(self._idle) + len(self._busy)
        while here + len(self._coming) < wanted:
            worker = self._hire()
            self._coming[worker.ready.remote()] = worker
        if not schedule.waiting:
            for worker in self._coming.values():
                self._dismiss(worker)
            self._coming = {}
            while self._idle and len(self._idle) + len(self._busy) > self._spec.min:
                self._dismiss(self._idle.pop())

    def _hand_out(self, stage: str, schedule: Schedule[Unit], gate: Gate | None) -> None:
        while self._idle and (unit := schedule.next()) is not None:
            if gate is not None:
                gate.before(stage, unit)
            worker = self._idle.pop(0)
            schedule.give(worker)
            self._busy[worker.do.remote(stage, unit)] = worker

    def _collect(self, stage: str, schedule: Schedule[Unit], gate: Gate | None, report: Report) -> None:
        errors = self._ray.exceptions
        ready, _ = self._ray.wait([*self._busy, *self._coming], timeout=_SECONDS_BETWEEN_LOOKS)
        for answer in ready:
            comes = answer in self._coming
            worker = self._coming.pop(answer) if comes else self._busy.pop(answer)
            try:
                said: Said | None = self._ray.get(answer)
            except errors.RayTaskError:
                raise
            except errors.RayError as error:
                self._lose(stage, schedule, worker, error)
                continue
            self._idle.append(worker)
            if said is not None:
                self._take(stage, schedule, gate, report, worker, said)

    def _take(
        self, stage: str, schedule: Schedule[Unit], gate: Gate | None, report: Report, worker: Any, said: Said
    ) -> None:
        for event, message, fields in said.notes:
            self._engine.progress.note(event, message, **fields)
        if said.error is not None:
            raise error_of(*said.error)
        assert said.receipt is not None
        self._lost_in_a_row = 0
        unit = schedule.done(worker)
        if gate is not None:
            gate.after(stage, unit, said.receipt)
        report(said.receipt)

    def _lose(self, stage: str, schedule: Schedule[Unit], worker: Any, error: Exception) -> None:
        """Raises:
        StoppedError: a unit, or the start of a worker, has killed too many of them.
        """
        self._dismiss(worker)
        why = type(error).__name__
        unit = schedule.lost(worker, why)
        then = "another one is started" if unit is None else f"another one does its unit {unit.unit}"
        self._engine.progress.note("lost", f"{stage}: a worker has died ({why}); {then}", stage=stage, why=why)
        self._lost_in_a_row += 1
        if self._lost_in_a_row == _MOST_LOST_IN_A_ROW:
            raise StoppedError(
                f"{self._lost_in_a_row} workers of {stage} died one after the other, and none did a unit: "
                f"{str(error).strip().splitlines()[0]}; mend the cluster and run again"
            )

    def _hire(self) -> Any:
        environment = {name: os.environ[name] for name in _SAME_EVERYWHERE if name in os.environ}
        actor = self._ray.remote(RayWorker).options(max_restarts=0, **self._needs)
        return actor.remote(self._run.elsewhere(), self._recruit, os.getcwd(), environment)

    def _dismiss(self, worker: Any) -> None:
        self._ray.kill(worker)


def _needs(ray: Any, spec: PoolSpec, gpus: int | None) -> dict[str, Any]:
    """What each worker takes of its machine, as Ray's options."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max((machine.get("GPU", 0.0) for machine in machines), default=0.0)
    num_gpus = spec.num_gpus
    if num_gpus is None:
        num_gpus = most if gpus is None else min(float(gpus), most) if most else 0.0
    needs: dict[str, Any] = {"num_cpus": spec.num_cpus, "num_gpus": num_gpus}
    if spec.accelerator_type is not None:
        needs["accelerator_type"] = spec.accelerator_type
    return needs


def _room(ray: Any, needs: Mapping[str, Any]) -> int:
    """Workers that the machines of the cluster, as it is, have room for; at least one."""
    wanted = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"]}
    if "accelerator_type" in needs:
        wanted[f"accelerator_type:{needs['accelerator_type']}"] = 0.001
    each: list[int] = [
        min(math.floor(node["Resources"].get(name, 0) / need) for name, need in wanted.items() if need)
        for node in ray.nodes()
        if node["Alive"]
    ]
    return max(1, sum(each))
