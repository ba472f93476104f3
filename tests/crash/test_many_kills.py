"""SIGKILL at random moments, again and again, while a reader polls the output."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from tests.crash import forking
from tests.crash.places import ROWS, Place, place
from tests.crash.test_concurrent import poll
from tests.support.azurite import Azurite
from tests.support.google import GoogleStorage
from tests.support.seaweed import SeaweedFS

KILLS = {"disk": 24, "s3": 12}
_KILLS_OF_AN_OUTPUT = 4


@dataclass
class Damage:
    """What all kills have left."""

    kills: int = 0
    attempts: int = 0
    lost: int = 0
    twice: int = 0
    polls: int = 0
    half_reads: list[str] = field(default_factory=list)
    redone: list[str] = field(default_factory=list)


@pytest.mark.crash
def test_kills_at_random_moments_lose_nothing_and_repeat_no_unit(somewhere: Place, calm: pl.DataFrame) -> None:
    kills = KILLS["s3" if somewhere.base.startswith("s3:") else "disk"]
    damage = kill_often(somewhere, calm, kills, seed=1)
    assert damage.kills >= kills
    assert damage.polls > 0
    assert (damage.lost, damage.twice, damage.half_reads, damage.redone) == (0, 0, [], [])


def kill_often(where: Place, calm: pl.DataFrame, kills: int, seed: int) -> Damage:
    """Kill attempts at jobs until there were so many kills; each output is killed a few times and then completed."""
    chance, damage = random.Random(seed), Damage()
    started = time.monotonic()
    where.new_output()
    assert where.run() == 0
    seconds = time.monotonic() - started
    while damage.kills < kills:
        stop, results = forking.event(), forking.results()
        where.new_output()
        reader = forking.in_process(poll, where.output, ROWS, where.environment, stop, results)
        here = 0
        while True:
            before, done = where.receipts(), len(forking.lines(where.log, "unit"))
            process = where.start()
            damage.attempts += 1
            process.join(chance.uniform(0, seconds) if here < _KILLS_OF_AN_OUTPUT else 120)
            process.kill()
            process.join()
            damage.redone += [unit for unit in forking.lines(where.log, "unit")[done:] if unit in before]
            if process.exitcode == 0:
                break
            assert process.exitcode == -9, forking.lines(where.log, "error")
            here, damage.kills = here + 1, damage.kills + 1
        stop.set()
        polls, _, wrong = results.get(timeout=120)
        reader.join(120)
        damage.polls += polls
        damage.half_reads += wrong
        rows = where.rows()
        damage.lost += calm.height - rows["id"].n_unique()
        damage.twice += rows.height - rows["id"].n_unique()
        where.check(calm)
    return damage


def main() -> None:
    """python -m tests.crash.test_many_kills --trials 500 [--on s3]: many more of them, and what they did."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--on", choices=["disk", "s3", "gs", "azure"], default="disk", help="clouds: on their emulators"
    )
    arguments = parser.parse_args()
    started = time.time()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        server: SeaweedFS | GoogleStorage | Azurite | None = None
        if arguments.on != "disk":
            makers = {"s3": lambda: SeaweedFS(Path(temporary) / "server"), "gs": GoogleStorage, "azure": Azurite}
            server = stack.enter_context(makers[arguments.on]())
        where = place(Path(temporary), server)
        where.export()
        where.new_output()
        assert where.run() == 0
        damage = kill_often(where, where.rows(), arguments.trials, arguments.seed)
    print(
        f"{damage.kills} kills, {damage.attempts} attempts, {time.time() - started:.0f} s: {damage.lost} rows lost, "
        f"{damage.twice} twice, {len(damage.half_reads)} half reads in {damage.polls} polls, "
        f"{len(damage.redone)} units done again"
    )
    if damage.lost or damage.twice or damage.half_reads or damage.redone:
        sys.exit(f"damage: {damage}")


if __name__ == "__main__":
    main()
