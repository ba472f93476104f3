"""The Ray engine on real clusters on this machine: workers and machines that die, pools, overlapped stages."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batchroute.engines.ray import workers
from batchroute.engines.ray.capacity import Capacity
from batchroute.engines.ray.engine import RayEngine
from batchroute.engines.ray.pools import PoolSpec, RaySpec
from batchroute.engines.ray.workers import LossCounter, RayWorkers
from batchroute.errors import CrashedError, InputError, StoppedError, Terminated, error_of
from batchroute.progress import PlainProgress
from tests.engines.ray.ray_jobs import OBJECTS, cluster
from tests.engines.ray.units import NEVER, BrokenDoer, Doer, Task, TinyRun, Unloadable, tasks
from tests.support.waiting import wait_for

CPUS = 2


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[Any]:
    with cluster(CPUS) as started:
        yield started


class KeptProgress(PlainProgress):
    """Keeps its lines."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        super().__init__(self.stream)

    def lines(self, words: str) -> list[str]:
        return [line for line in self.stream.getvalue().splitlines() if words in line]


@pytest.fixture(scope="module")
def connected(two_cpus: Any) -> Iterator[RayEngine]:
    """One connection for all tests: what each does with it is another pool's."""
    with closing(RayEngine(KeptProgress(), RaySpec(address=two_cpus.address))) as engine:
        yield engine


@pytest.fixture
def engine(connected: RayEngine) -> RayEngine:
    connected.progress, connected.stopped_by = KeptProgress(), None
    set_pools(connected)
    return connected


@pytest.fixture
def run(tmp_path: Path) -> TinyRun:
    return TinyRun.at(str(tmp_path))


def set_pools(engine: RayEngine, **pools: PoolSpec) -> None:
    engine._spec = RaySpec(address=engine._spec.address, **pools)


def run_units(
    engine: RayEngine, run: TinyRun, units: list[Task], stage: str = "small", make_worker: Any = Doer
) -> None:
    pool: Any = stage
    with engine.workers(run, make_worker, pool) as made:
        made.run(stage, units)


def run_large(engine: RayEngine, run: TinyRun, units: list[Task], spec: PoolSpec) -> None:
    """Run the units in a pool that soon says what it waits for."""

    def capacity() -> Capacity:
        return Capacity(engine._connected(), "large", spec, 1, can_grow=True)

    with closing(RayWorkers(engine, capacity, run, Doer, lambda: None, seconds_to_start=0.5)) as workers:
        workers.run("large", units)


def noted(engine: RayEngine, words: str) -> list[str]:
    assert isinstance(engine.progress, KeptProgress)
    return engine.progress.lines(words)


def free_cpus(engine: RayEngine) -> float:
    return float(engine._connected().available_resources().get("CPU", 0))


def test_units_are_shared_by_all_that_the_cluster_has_room_for(engine: RayEngine, run: TinyRun) -> None:
    run_units(engine, run, tasks(8, together=CPUS))
    begun = run.begun()
    assert sorted(unit for unit, _ in begun) == sorted(run.done()) == [task.unit for task in tasks(8)]
    assert len({pid for _, pid in begun}) == CPUS
    assert os.getpid() not in {pid for _, pid in begun}


def test_a_unit_with_a_receipt_is_not_done_again(engine: RayEngine, run: TinyRun) -> None:
    run_units(engine, run, tasks(3))
    run_units(engine, run, tasks(5))
    assert Counter(unit for unit, _ in run.begun()) == {task.unit: 1 for task in tasks(5)}


def test_a_pool_of_one_has_one_worker_whose_place_is_free_again_when_the_stage_ends(
    engine: RayEngine, run: TinyRun
) -> None:
    set_pools(engine, small=PoolSpec(max=1))
    run_units(engine, run, tasks(6))
    assert len({pid for _, pid in run.begun()}) == 1
    wait_for(lambda: free_cpus(engine) == CPUS)


def test_as_many_workers_are_started_as_there_are_units(engine: RayEngine, run: TinyRun) -> None:
    set_pools(engine, small=PoolSpec(num_cpus=0.25))
    run_units(engine, run, tasks(3, together=3))
    assert len({pid for _, pid in run.begun()}) == 3


def test_idle_workers_are_stopped_down_to_the_least(engine: RayEngine, run: TinyRun) -> None:
    set_pools(engine, small=PoolSpec(min=1, num_cpus=1))
    units = [Task("00000", together=CPUS), Task("00001", after="one worker is left")]
    working = threading.Thread(target=run_units, args=(engine, run, units))
    working.start()
    wait_for(lambda: "00000" in run.done() and free_cpus(engine) == 1)
    run.make("one worker is left")
    working.join()
    assert len(run.done()) == 2


def test_the_unit_of_a_worker_that_is_killed_is_done_by_another_one(engine: RayEngine, run: TinyRun) -> None:
    units = tasks(8)
    units[1] = Task("00001", after="killed")
    killing = threading.Thread(target=_kill_who_does, args=(run, "00001"))
    killing.start()
    run_units(engine, run, units)
    killing.join()
    begun = Counter(unit for unit, _ in run.begun())
    assert begun == {task.unit: 2 if task.unit == "00001" else 1 for task in units}
    assert len(run.done()) == 8
    assert len(noted(engine, "worker process has died); another one does its unit 00001")) == 1
    assert len(noted(engine, "is lost")) == 1


def _kill_who_does(run: TinyRun, unit: str) -> None:
    wait_for(lambda: unit in dict(run.begun()))
    os.kill(dict(run.begun())[unit], signal.SIGKILL)
    run.make("killed")


def test_the_units_of_a_machine_that_is_lost_are_done_by_another_one(
    engine: RayEngine, run: TinyRun, two_cpus: Any
) -> None:
    machine = two_cpus.add_node(num_cpus=2, object_store_memory=OBJECTS)
    try:
        wait_for(lambda: engine._connected().cluster_resources()["CPU"] == CPUS + 2)
        working = threading.Thread(target=run_units, args=(engine, run, tasks(10, after="machine is lost")))
        working.start()
        wait_for(lambda: len(run.begun()) == CPUS + 2)
    finally:
        two_cpus.remove_node(machine)
    run.make("machine is lost")
    working.join()
    assert len(run.done()) == 10
    assert len(noted(engine, "node was terminated")) == 2
    assert sorted(Counter(unit for unit, _ in run.begun()).values()) == [1] * 8 + [2] * 2


def test_workers_that_are_lost_at_once_count_as_one() -> None:
    losses = LossCounter()
    for worker in range(8):
        losses.started(worker)
    for worker in range(8):
        losses.count(worker)
    assert losses.in_a_row == 1
    for worker in range(8, 12):
        losses.started(worker)
        losses.count(worker)
    assert losses.in_a_row == 5


def test_a_unit_that_kills_every_worker_stops_the_run_and_all_others_are_done(engine: RayEngine, run: TinyRun) -> None:
    with pytest.raises(StoppedError, match=r"3 workers died of the unit 00002 of small: the actor is dead"):
        run_units(engine, run, tasks(4, _2="die"))
    assert Counter(unit for unit, _ in run.begun())["00002"] == 3
    assert "00002" not in run.done()


def test_workers_that_cannot_start_stop_the_run_with_the_reason(engine: RayEngine, run: TinyRun) -> None:
    words = "5 workers of small died one after the other, and none did a unit: .*No module named 'lacking'; fix"
    set_pools(engine, small=PoolSpec(max=1))
    with pytest.raises(StoppedError, match=words):
        run_units(engine, run, tasks(2), make_worker=Unloadable())
    wait_for(lambda: free_cpus(engine) == CPUS)


def test_what_a_worker_says_is_wrong_is_one_sentence_here(engine: RayEngine, run: TinyRun) -> None:
    with pytest.raises(InputError, match=r"^no model at models/nowhere; fix models.small.model$"):
        run_units(engine, run, tasks(2), make_worker=BrokenDoer)


def test_when_a_worker_stops_the_run_the_other_workers_finish_their_units(
    engine: RayEngine, run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(exit_code: int, message: str) -> BaseException:
        run.make("stopped")
        return error_of(exit_code, message)

    monkeypatch.setattr(workers, "error_of", stop)
    set_pools(engine, small=PoolSpec(num_cpus=1, max=2))
    with pytest.raises(StoppedError, match=r"^all rows failed alike; fix it and run again$"):
        run_units(engine, run, [Task("00000", after="stopped"), Task("00001", "stop", together=2), *tasks(4)[2:]])
    assert list(run.done()) == ["00000"]
    assert len(run.begun()) == 2


def test_a_defect_in_a_worker_is_a_traceback_of_the_worker(engine: RayEngine, run: TinyRun) -> None:
    with pytest.raises(CrashedError, match=r"^a worker of \w+: unexpected KeyError in batchroute") as caught:
        run_units(engine, run, tasks(2, _1="err"))
    assert "units.py" in caught.value.trace
    assert caught.value.trace.endswith("KeyError (its words may quote a row; BATCHROUTE_TRACEBACK=full shows them)")
    wait_for(lambda: free_cpus(engine) == CPUS)


def test_termination_drops_the_units_in_hand_at_once(engine: RayEngine, run: TinyRun) -> None:

    def terminate() -> None:
        wait_for(lambda: len(run.begun()) == 2)
        engine.stopped_by = Terminated()

    terminating = threading.Thread(target=terminate)
    terminating.start()
    with pytest.raises(Terminated):
        run_units(engine, run, tasks(2, after=NEVER))
    terminating.join()
    assert run.done() == {}
    wait_for(lambda: free_cpus(engine) == CPUS)


def test_a_pool_that_no_machine_has_room_for_says_what_it_waits_for(engine: RayEngine, run: TinyRun) -> None:
    words = (
        "large: waiting for room: a worker of large needs 1 CPU and 1 GPU (H100), which no machine of the cluster has: "
        "it has 2 CPUs and 0 GPUs in all"
    )

    def stop() -> None:
        wait_for(lambda: noted(engine, words))
        # Time for a second line, if the engine wrote one at each look.
        time.sleep(1.5)
        engine.stopped_by = StoppedError("enough")

    stopping = threading.Thread(target=stop)
    stopping.start()
    with pytest.raises(StoppedError, match="enough"):
        run_large(engine, run, tasks(2), PoolSpec(num_gpus=1, accelerator_type="H100"))
    stopping.join()
    assert len(noted(engine, "waiting for room")) == 1


def test_a_pool_that_others_leave_no_room_for_says_so_and_begins_when_they_do(engine: RayEngine, run: TinyRun) -> None:
    set_pools(engine, small=PoolSpec(num_cpus=2))
    words = "large: waiting for room: a worker of large needs 2 CPUs and 0 GPUs; the cluster has 2 CPUs and 0"
    holding = threading.Thread(target=run_units, args=(engine, run, tasks(1, after="large waits")))
    holding.start()
    wait_for(run.begun)
    waiting = threading.Thread(target=run_large, args=(engine, run, tasks(1), PoolSpec(num_cpus=2)))
    waiting.start()
    wait_for(lambda: noted(engine, words))
    run.make("large waits")
    holding.join()
    waiting.join()
    assert run.done("large")["00000"].finished > run.done("small")["00000"].finished


def test_a_cluster_that_cannot_grow_refuses_what_it_has_no_room_for(engine: RayEngine) -> None:
    ray = engine._connected()
    for spec in (PoolSpec(num_gpus=1), PoolSpec(num_cpus=3), PoolSpec(accelerator_type="L4")):
        with pytest.raises(InputError, match=r"^a worker of large needs .* which no machine .*; lower what ray.large"):
            Capacity(ray, "large", spec, None, can_grow=False)
    assert Capacity(ray, "large", PoolSpec(), None, can_grow=False).workers() == CPUS
    assert Capacity(ray, "large", PoolSpec(num_cpus=0.5), 8, can_grow=False).workers() == 2 * CPUS
    assert Capacity(ray, "large", PoolSpec(num_cpus=0), 8, can_grow=False).workers() == CPUS
    assert Capacity(ray, "large", PoolSpec(num_gpus=1), 1, can_grow=True).workers() == 1


def test_two_stages_run_side_by_side_where_there_is_room_for_both(engine: RayEngine, run: TinyRun) -> None:
    """A unit of each stage waits until the other stage has begun."""
    set_pools(engine, small=PoolSpec(max=1), large=PoolSpec(max=1))
    with engine.overlapped(lambda: run_units(engine, run, tasks(5, after="small.log"), "large")):
        run_units(engine, run, tasks(5, after="large.log"))
    assert len(run.done("small")) == len(run.done("large")) == 5


def test_the_current_stage_has_the_room_where_there_is_room_for_one(engine: RayEngine, run: TinyRun) -> None:
    set_pools(engine, small=PoolSpec(num_cpus=2), large=PoolSpec(num_cpus=2))
    with engine.overlapped(lambda: run_units(engine, run, tasks(5), "large")):
        run_units(engine, run, tasks(5))
    small, large = ([receipt.finished for receipt in run.done(stage).values()] for stage in ("small", "large"))
    assert len(small) == len(large) == 5
    assert max(small) < min(large)


def test_an_overlapped_stage_begins_where_the_current_one_has_nothing_to_do(engine: RayEngine, run: TinyRun) -> None:
    with engine.overlapped(lambda: run_units(engine, run, tasks(2), "large")):
        pass
    assert len(run.done("large")) == 2


def test_an_error_in_an_overlapped_stage_ends_the_current_one(engine: RayEngine, run: TinyRun) -> None:
    set_pools(engine, small=PoolSpec(max=1), large=PoolSpec(max=1))
    with (
        pytest.raises(InputError, match="no model at models/nowhere"),
        engine.overlapped(lambda: run_units(engine, run, tasks(2), "large", BrokenDoer)),
    ):
        run_units(engine, run, tasks(2, after=NEVER))
    assert run.done() == {}


def test_an_error_in_the_current_stage_ends_an_overlapped_one(engine: RayEngine, run: TinyRun) -> None:
    """Its running unit is done first."""

    def release() -> None:
        wait_for(lambda: engine.stopped_by)
        run.make("stopped")

    releasing = threading.Thread(target=release)
    releasing.start()
    set_pools(engine, small=PoolSpec(max=1), large=PoolSpec(max=1))
    with (
        pytest.raises(StoppedError, match="all rows failed alike"),
        engine.overlapped(lambda: run_units(engine, run, tasks(4, after="stopped"), "large")),
    ):
        run_units(engine, run, [Task("00000", "stop", after="large.log")])
    releasing.join()
    assert list(run.done("large")) == ["00000"]


def test_a_cluster_is_started_by_the_thread_that_outlives_an_overlapped_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's processes end with the thread that started them."""
    engine = RayEngine(PlainProgress(io.StringIO()), RaySpec())
    threads: list[threading.Thread] = []
    monkeypatch.setattr(engine, "_connected", lambda: threads.append(threading.current_thread()))
    with engine.overlapped(engine._connected):
        pass
    assert threads[0] is threading.main_thread()
    assert len(threads) == 2
