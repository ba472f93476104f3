"""SIGKILL of a rank at random moments: the other ranks end, the next attempt resumes, and nothing is done twice."""

from __future__ import annotations

import argparse
import functools
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from batchroute.commands.verify import verify
from batchroute.engines.ranks import engine, rendezvous
from batchroute.errors import EXIT_CRASHED, EXIT_STOPPED, EXIT_TERMINATED
from batchroute.pipeline import run as pipeline_run
from batchroute.pipeline.shards.pieces import Pieces
from batchroute.pipeline.stages.score import Scorer
from tests.crash.ranks import PROMISED, Ranks, World, hashes, hold, receipts
from tests.support.jobs import JobFolder, table
from tests.support.waiting import wait_for

KILLS = 12
_KILLS_OF_AN_OUTPUT = 5


@dataclass
class Damage:
    """What all kills have left."""

    kills: int = 0
    attempts: int = 0
    late: int = 0
    """Kills that came after the commit."""
    longest: float = 0.0
    """Seconds from a kill to the end of the other ranks; the promise is checked by `main`, on an idle machine."""
    wrong: list[str] = field(default_factory=list)


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    return ranks_of(tmp_path)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A file that a rank makes when it is where a test wants it."""
    return tmp_path / "begun"


def ranks_of(folder: Path) -> Ranks:
    return Ranks(JobFolder(folder, table(300), units={"score": 20, "generate": 10, "merge": 40}))


@pytest.mark.crash
def test_ranks_killed_at_random_moments_end_the_others_in_time_and_lose_nothing(ranks: Ranks) -> None:
    damage = kill_often(ranks, KILLS, seed=1)
    assert damage.kills == KILLS
    assert damage.wrong == []


def kill_often(ranks: Ranks, kills: int, seed: int) -> Damage:
    """Kill a rank of attempts at a job until there were so many kills; each output is killed a few times."""
    chance, damage = random.Random(seed), Damage()
    calm = ranks.new_output()
    world = ranks.start(2)
    _wait_until_begun(world)
    started = time.monotonic()
    assert world.join() == [0, 0]
    seconds = time.monotonic() - started
    expected = hashes(calm)
    while damage.kills < kills:
        output, here = ranks.new_output(), 0
        while not (output / "manifest.json").exists():
            size, before = chance.choice((2, 3)), receipts(output)
            world = ranks.start(size)
            damage.attempts += 1
            if damage.kills < kills and here < _KILLS_OF_AN_OUTPUT:
                _wait_until_begun(world)
                time.sleep(chance.uniform(0, seconds))
                killed = _kill(world, chance.randrange(size), output, damage)
                damage.kills, here = damage.kills + killed, here + killed
            elif (codes := world.join()) != [0] * size:
                damage.wrong.append(f"an undisturbed attempt ended with {codes}: {world.said()}")
            damage.wrong += _look_at(world, before, receipts(output))
        if len(ranks.units) != len(set(ranks.units)):
            damage.wrong.append(f"{output}: units were put twice")
        if hashes(output) != expected or verify(str(output)).wrong:
            damage.wrong.append(f"{output} differs from an undisturbed run's")
    return damage


def _wait_until_begun(world: World) -> None:
    """All ranks have joined when rank 0 has begun."""
    wait_for(lambda: " rows in " in world.ranks[0].said())


def _kill(world: World, which: int, output: Path, damage: Damage) -> bool:
    """Whether there was somebody to kill."""
    victim, others = world.ranks[which], [rank for number, rank in enumerate(world.ranks) if number != which]
    victim.kill()
    started = time.monotonic()
    world.join()
    took = time.monotonic() - started
    if victim.exit_code != -signal.SIGKILL:
        damage.late += 1
        return False
    damage.longest = max(damage.longest, took)
    codes = {rank.exit_code for rank in others}
    said = any(f"error: rank {which} of {len(world.ranks)} died; run again to go on" in rank.said() for rank in others)
    if (output / "manifest.json").exists():
        damage.late += 1
    elif codes != {EXIT_STOPPED} or not said:
        damage.wrong.append(f"rank {which} was killed, others ended with {codes}: {world.said()}")
    return True


def _look_at(world: World, before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    wrong = [f"{name} has changed" for name, receipt in before.items() if after.get(name) != receipt]
    return wrong + [f"{unit} was done again" for unit in world.units if unit in before]


def _die_in(shard: str, begun: Path) -> None:
    """The rank kills itself when it has answers to a unit of this shard, before they are put."""
    put = Pieces._put

    def die(pieces: Pieces, *arguments: Any) -> Any:
        if pieces.shard == shard:
            begun.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return put(pieces, *arguments)

    Pieces._put = die  # type: ignore[method-assign]


def _wait_in(shard: str, begun: Path) -> None:
    """The rank puts its answers to the shard once another rank has had some too."""
    put = Pieces._put

    def wait(pieces: Pieces, *arguments: Any) -> Any:
        if pieces.shard == shard:
            wait_for(begun.exists)
        return put(pieces, *arguments)

    Pieces._put = wait  # type: ignore[method-assign]


@pytest.mark.crash
@pytest.mark.parametrize("shard", ["calibration_large", "deferred"])
def test_what_two_ranks_began_one_process_ends_when_answers_decide(ranks: Ranks, begun: Path, shard: str) -> None:
    ranks.job.use_every_stage()
    # More rows are left to be deferred.
    del ranks.job.settings["models"]["small"]["escalate"]
    calm = ranks.new_output()
    ranks.run(1)
    output = ranks.new_output()
    faults = {0: functools.partial(_wait_in, shard, begun), 1: functools.partial(_die_in, shard, begun)}
    world = ranks.start(2, faults=faults)
    assert world.join() == [EXIT_STOPPED, -signal.SIGKILL], world.said()
    before = receipts(output)
    assert any(f"/{shard}/" in name for name in before)
    assert _look_at(ranks.run(1), before, receipts(output)) == []
    assert hashes(output) == hashes(calm)


def _stand_still() -> None:
    """The rank stops before its first barrier."""
    barrier = engine.Ranks.barrier

    def stop_first(ranks: engine.Ranks) -> None:
        engine.Ranks.barrier = barrier  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGSTOP)
        barrier(ranks)

    engine.Ranks.barrier = stop_first  # type: ignore[method-assign]


@pytest.mark.crash
def test_a_rank_that_stands_still_for_a_while_is_not_dead(ranks: Ranks) -> None:
    ranks.new_output()
    world = ranks.start(2, faults={1: _stand_still})
    pid = world.ranks[1].process.pid
    wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    time.sleep(3)
    assert world.ranks[0].exit_code is None
    world.ranks[1].signal(signal.SIGCONT)
    assert world.join() == [0, 0], world.said()


def _hold_scoring(begun: Path, deaf: bool = False) -> None:
    """The router's first unit makes the file `begun` and does not end."""
    Scorer.do = lambda *_: hold(begun, deaf)  # type: ignore[assignment, method-assign, return-value]


def _score_after(begun: Path) -> None:
    do = Scorer.do

    def do_later(*arguments: Any) -> Any:
        wait_for(begun.exists)
        return do(*arguments)

    Scorer.do = do_later  # type: ignore[method-assign]


def _crash() -> None:
    def crash(*arguments: Any) -> None:
        raise ValueError("my pension number is 4711")

    Scorer.do = crash  # type: ignore[assignment, method-assign]


@pytest.mark.crash
def test_a_rank_that_meets_an_unexpected_error_ends_all_with_its_exit_code(ranks: Ranks, begun: Path) -> None:
    ranks.new_output()
    world = ranks.start(2, faults={0: functools.partial(_hold_scoring, begun), 1: _crash})
    assert world.join() == [EXIT_CRASHED, EXIT_CRASHED], world.said()
    zero, one = (rank.said() for rank in world.ranks)
    assert "error: rank 1 of 2: unexpected ValueError in batchroute/" in zero
    assert one.startswith("error: unexpected ValueError in batchroute/")
    assert "in crash\n" in one
    assert "pension number" not in zero
    assert "ValueError: my" not in one
    ranks.run(2)


@pytest.mark.crash
def test_a_rank_in_a_long_computation_is_ended_by_its_guard(ranks: Ranks, begun: Path) -> None:
    ranks.new_output()
    others = functools.partial(_score_after, begun)
    world = ranks.start(3, faults={0: others, 1: functools.partial(_hold_scoring, begun, deaf=True), 2: others})
    wait_for(begun.exists)
    world.ranks[2].kill()
    assert world.join() == [EXIT_STOPPED, EXIT_STOPPED, -signal.SIGKILL], world.said()
    assert "rank 2 of 3 died; rank 1 leaves its unit" in world.ranks[1].said()
    assert "error: rank 2 of 3 died; run again to go on" in world.ranks[0].said()
    ranks.run(3)
    assert len(ranks.units) == len(set(ranks.units))


def _hold_report(begun: Path, go_on: Path) -> None:
    """Rank 0 makes the file `begun` between the last stage and the commit, and waits for the file `go_on`."""
    write = pipeline_run.write_report

    def write_later(*arguments: Any) -> Any:
        begun.touch()
        wait_for(go_on.exists, 600)
        return write(*arguments)

    pipeline_run.write_report = write_later


def _impatient() -> None:
    rendezvous._SECONDS_TO_LEAVE = 1.0


@pytest.mark.crash
def test_ranks_that_are_done_wait_for_rank_zero_as_long_as_it_takes(ranks: Ranks, begun: Path) -> None:
    ranks.new_output()
    go_on = begun.with_name("go on")
    world = ranks.start(3, faults={0: functools.partial(_hold_report, begun, go_on), 1: _impatient, 2: _impatient})
    wait_for(begun.exists)
    time.sleep(3)
    go_on.touch()
    assert world.join() == [0, 0, 0], world.said()


@pytest.mark.crash
@pytest.mark.parametrize("victim", [0, 2])
def test_ranks_that_are_done_hear_of_a_death_before_the_commit(ranks: Ranks, begun: Path, victim: int) -> None:
    output = ranks.new_output()
    world = ranks.start(3, faults={0: functools.partial(_hold_report, begun, begun.with_name("never"))})
    wait_for(begun.exists)
    world.ranks[victim].kill()
    codes = [EXIT_STOPPED] * 3
    codes[victim] = -signal.SIGKILL
    assert world.join() == codes, world.said()
    assert f"error: rank {victim} of 3 died; run again to go on" in world.said()
    assert not (output / "manifest.json").exists()
    ranks.run(2)


@pytest.mark.crash
def test_a_rank_that_is_terminated_terminates_the_run(ranks: Ranks, begun: Path) -> None:
    ranks.new_output()
    world = ranks.start(3, faults=dict.fromkeys(range(3), functools.partial(_hold_scoring, begun)))
    wait_for(begun.exists)
    world.ranks[1].signal(signal.SIGTERM)
    assert world.join() == [EXIT_TERMINATED] * 3, world.said()
    assert world.said().count("terminated; run the same command again to go on") == 1


@pytest.mark.crash
def test_a_rank_that_is_terminated_when_it_is_done_terminates_the_run(ranks: Ranks, begun: Path) -> None:
    ranks.new_output()
    world = ranks.start(2, faults={0: functools.partial(_hold_report, begun, begun.with_name("never"))})
    wait_for(begun.exists)
    world.ranks[1].signal(signal.SIGTERM)
    assert world.join() == [EXIT_TERMINATED] * 2, world.said()
    assert world.said().count("terminated; run the same command again") == 1


def _leave_a_thread_behind(begun: Path) -> None:
    """Scoring starts a thread that nobody will wake, as a pool does that a signal interrupts at that moment."""

    def do(*_: Any) -> None:
        threading.Thread(target=threading.Event().wait).start()
        hold(begun)

    Scorer.do = do  # type: ignore[assignment, method-assign]


@pytest.mark.crash
def test_a_thread_that_never_ends_does_not_keep_a_rank(ranks: Ranks, begun: Path) -> None:
    ranks.new_output()
    world = ranks.start(3, faults=dict.fromkeys(range(3), functools.partial(_leave_a_thread_behind, begun)))
    wait_for(begun.exists)
    world.ranks[2].kill()
    assert world.join() == [EXIT_STOPPED, EXIT_STOPPED, -signal.SIGKILL], world.said()
    # On a busy machine the guard may speak first.
    assert "error: rank 2 of 3 died; " in world.ranks[0].said()


@pytest.mark.crash
def test_a_thread_that_never_ends_does_not_keep_a_terminated_job(ranks: Ranks, begun: Path) -> None:
    ranks.new_output()
    world = ranks.start(1, faults={0: functools.partial(_leave_a_thread_behind, begun)})
    wait_for(begun.exists)
    world.ranks[0].signal(signal.SIGTERM)
    assert world.join() == [EXIT_TERMINATED], world.said()


def main() -> None:
    """python -m tests.crash.test_rank_death --kills 100: many more of them, and what they did."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--calm", type=int, default=30, help="runs without a kill before them")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        ranks = ranks_of(Path(folder))
        for _ in range(arguments.calm):
            ranks.new_output()
            ranks.run(2)
        print(f"{arguments.calm} runs by two ranks ended with 0 on both, in {time.time() - started:.0f} s")
        started = time.time()
        damage = kill_often(ranks, arguments.kills, arguments.seed)
    print(
        f"{damage.kills} kills ({damage.late} after the commit), {damage.attempts} attempts, "
        f"{time.time() - started:.0f} s: the others ended within {damage.longest:.2f} s; {len(damage.wrong)} wrong"
    )
    if damage.wrong or damage.longest > PROMISED:
        sys.exit("\n".join(damage.wrong))


if __name__ == "__main__":
    main()
