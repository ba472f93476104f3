"""Kills a job at random moments, resumes it until it is done, and checks that nothing is lost or done twice."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from tests.support.command import Command


@dataclass
class Damage:
    """What the last attempt has left."""

    kills: int = 0
    attempts: int = 0
    redone: list[str] = field(default_factory=list)
    """Units that were done again although they had a receipt when the attempt began."""
    changed: list[str] = field(default_factory=list)
    """Receipts that are not what they were."""


def run_with_kills(
    job: str,
    overrides: Sequence[str],
    work: Path,
    kills: int,
    units: int,
    seconds: float,
    seed: int,
    remove: Callable[[], object] | None = None,
) -> Damage:
    """Run `job` and kill it `kills` times; then let it end.

    An attempt does a random number of units, at most `units`, and is killed a random time later, at most `seconds`:
    so kills fall all over the job, on a quick machine and on a slow one.

    Args:
        remove: removes the output, so that the job begins again, if it ends before there were so many kills: on a busy
            machine kills come late. Unless given the job ends with fewer kills.
    """
    chance, damage = random.Random(seed), Damage()
    while True:
        before = _receipts(work)
        attempt = start(job, overrides)
        damage.attempts += 1
        if damage.kills < kills and _wait_for_units(attempt, work, len(before) + chance.randint(0, units)):
            time.sleep(chance.uniform(0, seconds))
            attempt.kill()
        ended = attempt.end()
        damage.kills += ended.code == -signal.SIGKILL
        _inspect(damage, before, _receipts(work), ended.err)
        if ended.code == 0:
            if damage.kills >= kills or remove is None:
                return damage
            remove()
            continue
        assert ended.code == -signal.SIGKILL, ended.err


def _wait_for_units(attempt: Command, work: Path, units: int) -> bool:
    """Wait until so many units are done; False when the attempt ended before."""
    while attempt.code is None:
        if len(_receipts(work)) >= units:
            return True
        time.sleep(0.01)
    return False


def rows_of(output: Path) -> pl.DataFrame:
    """The committed rows, by the manifest."""
    files = json.loads((output / "manifest.json").read_text())["files"]
    return pl.concat([pl.read_parquet(output / file["path"]) for file in files])


def work_of(output: Path) -> Path:
    return output.with_name(output.name + ".work")


def start(job: str, overrides: Sequence[str]) -> Command:
    settings = [word for override in overrides for word in ("--set", override)]
    return Command("run", job, "--json-logs", *settings)


def _receipts(work: Path) -> dict[str, bytes]:
    return {str(path.relative_to(work)): path.read_bytes() for path in work.glob("*/**/*.json")}


def _inspect(damage: Damage, before: dict[str, bytes], after: dict[str, bytes], log: str) -> None:
    damage.changed += [name for name, receipt in before.items() if after.get(name) != receipt]
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{") and line.endswith("}")]
    # After a crash, partition goes through all chunks again; it commits nothing twice.
    done = [f"{event['stage']}/{event['unit']}.json" for event in events if event["event"] == "unit"]
    known = {name.split("/", 1)[1] for name in before}
    damage.redone += [unit for unit in done if unit in known and not unit.startswith("partition/")]


def main() -> None:
    """python -m tests.crash.killing JOB.yaml OUTPUT --kills 20 --seconds 40: kill a job of one's own."""
    import argparse

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("job")
    parser.add_argument("output", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--units", type=int, default=2, help="the most units that an attempt does before its kill")
    parser.add_argument("--seconds", type=float, default=3.0, help="the longest time from then to the kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--id", default="id", help="the id column")
    arguments = parser.parse_args()
    started = time.time()
    damage = run_with_kills(
        arguments.job,
        [f"output.uri={arguments.output}"],
        work_of(arguments.output),
        arguments.kills,
        arguments.units,
        arguments.seconds,
        arguments.seed,
    )
    rows = rows_of(arguments.output)
    print(f"{damage.kills} kills, {damage.attempts} attempts, {time.time() - started:.0f} s")
    print(f"{rows.height:,} rows, {rows[arguments.id].n_unique():,} ids, {len(damage.redone)} units done again")
    if damage.redone or damage.changed or rows[arguments.id].n_unique() != rows.height:
        sys.exit(f"damage: {damage}")


if __name__ == "__main__":
    main()
