"""How much longer a night takes than it must, on 64 workers that differ, and that die.

    python -m tests.benchmarks.simulated_cluster [--repetitions 200] [--quick]

Time is simulated; who gets which unit is decided by the code that runs: `Claims` over the ranks' shared counter, and
`RayWorkers` on a cluster whose machines are simulated. `static` is what a job without either does: unit i belongs to
worker i * workers // units. Of ranks one death stops all, and all start anew, without the units that were in hand; of
the other two only the dead worker's unit is lost. All three ways get the same units, speeds and deaths in a repetition.
Prints the finishing time over the ideal one, all work by the speed of all workers: median / 95th percentile.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchroute.engines.claims import Claims
from batchroute.engines.local import LocalEngine
from batchroute.engines.ranks.engine import Ranks
from batchroute.engines.ranks.store import MemoryStore
from batchroute.engines.ranks.world import World
from batchroute.engines.ray.capacity import Capacity
from batchroute.engines.ray.pools import PoolSpec
from batchroute.engines.ray.worker import UnitResult
from batchroute.engines.ray.workers import RayWorkers
from batchroute.progress import NoProgress
from batchroute.storage.receipts import Receipt

WORKERS, MEAN_SECONDS, START_UP = 64, 60.0, 30.0
STAGE = "large"


@dataclass(frozen=True)
class Scenario:
    """What nights are like.

    Attributes:
        units: for each worker, on average.
        sigma: of the logarithm of a unit's seconds.
        slow: share of the workers that are half as fast.
        die: share of the workers that die once, at a moment of the ideal night.
    """

    units: int
    sigma: float
    slow: float = 0.0
    die: float = 0.0
    workers: int = WORKERS


@dataclass(frozen=True)
class Night:
    """
    Attributes:
        seconds: of each unit, at full speed.
        speeds: of each worker, at most 1.
        deaths: when each worker dies; infinite where it does not.
        start_up: seconds from a death to the replacement's first unit.
    """

    seconds: NDArray[np.float64]
    speeds: NDArray[np.float64]
    deaths: NDArray[np.float64]
    start_up: float = START_UP

    @classmethod
    def of(cls, scenario: Scenario, rng: np.random.Generator) -> Night:
        workers, sigma = scenario.workers, scenario.sigma
        seconds = rng.lognormal(math.log(MEAN_SECONDS) - sigma**2 / 2, sigma, workers * scenario.units)
        speeds, deaths = np.ones(workers), np.full(workers, math.inf)
        speeds[rng.permutation(workers)[: round(scenario.slow * workers)]] = 0.5
        dying = rng.permutation(workers)[: round(scenario.die * workers)]
        deaths[dying] = rng.random(len(dying)) * seconds.sum() / speeds.sum()
        return cls(seconds, speeds, deaths)

    @property
    def ideal(self) -> float:
        return float(self.seconds.sum() / self.speeds.sum())

    @property
    def units(self) -> list[Unit]:
        return [Unit(f"{number:05d}", number) for number in range(len(self.seconds))]

    def takes(self, worker: int, unit: Unit) -> float:
        return float(self.seconds[unit.number] / self.speeds[worker])


@dataclass(frozen=True, slots=True)
class Unit:
    unit: str
    number: int


def static(night: Night) -> float:
    """When the last of all slices is done."""
    workers, ends = len(night.speeds), []
    for worker, slice_ in enumerate(np.array_split(np.arange(len(night.seconds)), workers)):
        death, now = float(night.deaths[worker]), 0.0
        for number in slice_:
            end = now + night.seconds[number] / night.speeds[worker]
            if now <= death < end:
                end += death - now + night.start_up
            now = float(end)
        ends.append(now)
    return max(ends)


def ranks(night: Night) -> float:
    """When the last unit is done, of ranks that stop with the first death and start anew."""
    done: dict[str, Receipt] = {}
    begins = 0.0
    for death in [*sorted(night.deaths[np.isfinite(night.deaths)]), math.inf]:
        ended = _attempt(night, done, begins, float(death))
        if ended is not None:
            return ended
        begins = float(death) + night.start_up
    raise AssertionError("a night without a further death has an end")


def _attempt(night: Night, done: dict[str, Receipt], begins: float, death: float) -> float | None:
    """The units of all ranks until one dies, which are added to `done`; when the last one was done if none dies."""
    store, units, heard = MemoryStore(), night.units, len(done)

    def hear(receipt: Receipt) -> None:
        nonlocal heard
        heard += 1

    size = len(night.speeds)
    claims = [
        Claims(Ranks(World(rank, size, master="simulated:0"), store), STAGE, units, done, hear) for rank in range(size)
    ]
    # Who is free when; the unit that this ends.
    events: list[tuple[float, int, Unit | None]] = [(begins, rank, None) for rank in range(size)]
    now, own = begins, 0
    while events and events[0][0] < death:
        now, rank, unit = heapq.heappop(events)
        if unit is not None:
            assert unit.unit not in done
            done[unit.unit] = _receipt(unit)
            own += rank == 0
            claims[rank].end(unit, done[unit.unit])
        for unit in claims[rank].take():
            heapq.heappush(events, (now + night.takes(rank, unit), rank, unit))
    if events:
        return None
    claims[0].sync()
    assert len(done) == heard + own == len(units)
    return now


def ray(night: Night) -> float:
    """When the last unit is done, of a pool that replaces a worker that dies."""
    cluster = Cluster(night)
    run: Any = SimpleNamespace(
        work=SimpleNamespace(stage=lambda name: SimpleNamespace(receipts=dict)), elsewhere=lambda: None
    )
    make_worker: Any = lambda run: None  # noqa: E731
    capacity = Capacity(cluster, "small", PoolSpec(), gpus=0, can_grow=True)
    workers = RayWorkers(LocalEngine(NoProgress()), lambda: capacity, run, make_worker, placed=lambda: None)
    workers.run(STAGE, night.units)
    workers.close()
    assert len(cluster.done) == len(night.seconds)
    return cluster.now


class _DiedError(Exception):
    pass


class _RaisedError(_DiedError):
    pass


@dataclass(eq=False)
class _Actor:
    """A worker of the simulated cluster, on one of its machines."""

    cluster: Cluster
    machine: int
    dead: bool = False
    awaited: list[_Answer] = field(default_factory=list)

    @property
    def ready(self) -> _Method:
        return _Method(self.cluster.start, self)

    @property
    def do(self) -> _Method:
        return _Method(self.cluster.work, self)


@dataclass(frozen=True)
class _Method:
    call: Callable[..., _Answer]
    actor: _Actor

    def remote(self, *arguments: Any) -> _Answer:
        return self.call(self.actor, *arguments)


@dataclass(eq=False)
class _Answer:
    """What an actor will have said."""

    says: UnitResult | None = None
    died: bool = False
    there: bool = False


class Cluster:
    """What `RayWorkers` uses of the module `ray`; each machine has room for one worker."""

    exceptions = SimpleNamespace(RayError=_DiedError, RayTaskError=_RaisedError)

    def __init__(self, night: Night) -> None:
        self.now = 0.0
        self.done: set[str] = set()
        self._night = night
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._free = list(range(len(night.speeds)))
        self._at: dict[int, _Actor] = {}
        for machine in np.flatnonzero(np.isfinite(night.deaths)):
            self._later(float(night.deaths[machine]), functools.partial(self._die, int(machine)))

    def nodes(self) -> list[Mapping[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": float(len(self._night.speeds))}}]

    def remote(self, worker: type) -> Any:
        return SimpleNamespace(options=lambda **needs: SimpleNamespace(remote=lambda *arguments: self._start_worker()))

    def wait(self, answers: Sequence[_Answer], timeout: float) -> tuple[list[_Answer], list[_Answer]]:
        """Until one of them is there, however long that takes: before that nothing can change."""
        while not any(answer.there for answer in answers):
            self.now, _, happens = heapq.heappop(self._events)
            happens()
        first = next(answer for answer in answers if answer.there)
        return [first], [answer for answer in answers if answer is not first]

    def get(self, answer: _Answer) -> UnitResult | None:
        if answer.died:
            raise _DiedError
        return answer.says

    def kill(self, actor: _Actor) -> None:
        if self._at.get(actor.machine) is actor:
            del self._at[actor.machine]
            self._free.append(actor.machine)
        actor.awaited.clear()

    def start(self, actor: _Actor) -> _Answer:
        # The first ones are there when the night begins, as those of the other ways.
        return self._answers(actor, self.now and self._night.start_up, None)

    def work(self, actor: _Actor, stage: str, unit: Unit) -> _Answer:
        return self._answers(actor, self._night.takes(actor.machine, unit), UnitResult(_receipt(unit), []))

    def _start_worker(self) -> _Actor:
        actor = _Actor(self, self._free.pop(0))
        self._at[actor.machine] = actor
        return actor

    def _answers(self, actor: _Actor, seconds: float, says: UnitResult | None) -> _Answer:
        answer = _Answer(says, died=actor.dead, there=actor.dead)
        if actor.dead:
            return answer
        actor.awaited.append(answer)

        def come() -> None:
            if answer in actor.awaited:
                actor.awaited.remove(answer)
                answer.there = True
                if says is not None and says.receipt is not None:
                    assert says.receipt.unit not in self.done
                    self.done.add(says.receipt.unit)

        self._later(self.now + seconds, come)
        return answer

    def _die(self, machine: int) -> None:
        actor = self._at.get(machine)
        if actor is None:
            return
        actor.dead = True
        for answer in actor.awaited:
            answer.there = answer.died = True
        actor.awaited.clear()

    def _later(self, moment: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._numbers), happens))


def _receipt(unit: Unit) -> Receipt:
    return Receipt(run_id="simulated", unit=unit.unit, rows=1, first=0, last=0, file="", bytes=0, sha256="")


RULES: dict[str, Callable[[Night], float]] = {"ranks": ranks, "ray": ray, "static": static}


def measure(scenario: Scenario, repetitions: int) -> dict[str, NDArray[np.float64]]:
    """Finishing time over the ideal, by way, of shape [repetitions]; `longest`: what the longest unit alone takes."""
    found: dict[str, list[float]] = {rule: [] for rule in (*RULES, "longest")}
    for seed in range(repetitions):
        night = Night.of(scenario, np.random.default_rng(seed))
        for rule, ends in RULES.items():
            found[rule].append(ends(night) / night.ideal)
        found["longest"].append(float(night.seconds.max()) / night.ideal)
    return {rule: np.array(ratios) for rule, ratios in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="10 repetitions")
    arguments = parser.parse_args()
    repetitions = 10 if arguments.quick else arguments.repetitions
    print("| units each | sigma | half as fast | die | ranks | Ray | static slices | the longest unit alone |")
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for units, sigma, slow, die in itertools.product((8, 32), (0.5, 1.0), (0.0, 0.1), (0.0, 0.01)):
        found = measure(Scenario(units, sigma, slow, die), repetitions)
        shown = [f"{np.median(ratios):.2f} / {np.percentile(ratios, 95):.2f}" for ratios in found.values()]
        workers = [f"{round(share * WORKERS)}" for share in (slow, die)]
        print("|", " | ".join([str(units), str(sigma), *workers, *shown]), "|", flush=True)
        medians = {rule: [float(np.median(ratios)), float(np.percentile(ratios, 95))] for rule, ratios in found.items()}
        results.append({"units": units, "sigma": sigma, "slow": slow, "die": die, **medians})
    print(json.dumps(results))


if __name__ == "__main__":
    main()
