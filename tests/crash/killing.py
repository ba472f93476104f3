"""Kills a job at random moments, resumes it until it is done, and checks that nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl


@dataclass
class Damage:
    """What was found after the last resume."""

    kills: int = 0
    attempts: int = 0
    redone: list[str] = field(default_factory=list)
    """Units that were done again although they had a receipt when the attempt began."""
    changed: list[str] = field(default_factory=list)
    """Receipts that are not what they were."""


def run_with_kills(
    job: str, overrides: Sequence[str], work: Path, kills: int, seconds: float, seed: int, sig: int = signal.SIGKILL
) -> Damage:
    """Run `job` and kill it `kills` times, each at a random moment up to `seconds` after it began; then let it end."""
    chance, damage = random.Random(seed), Damage()
    while True:
        before = _receipts(work)
        process = _start(job, overrides)
        damage.attempts += 1
        try:
            limit = chance.uniform(0, seconds) if damage.kills < kills else None
            log = process.communicate(timeout=limit)[1]
        except subprocess.TimeoutExpired:
            process.send_signal(sig)
            log = process.communicate()[1]
            damage.kills += 1
        _inspect(damage, before, _receipts(work), log)
        if process.returncode == 0:
            return damage
        assert process.returncode in (-signal.SIGKILL, 143), log


def rows_of(output: Path) -> pl.DataFrame:
    """The committed rows, by the manifest."""
    files = json.loads((output / "manifest.json").read_text())["files"]
    return pl.concat([pl.read_parquet(output / file["path"]) for file in files])


def work_of(output: Path) -> Path:
    return output.with_name(output.name + ".work")


def _start(job: str, overrides: Sequence[str]) -> subprocess.Popen[str]:
    settings = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-m", "batchroute", "run", job, "--json-logs", *settings]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)


def _receipts(work: Path) -> dict[str, bytes]:
    return {str(path.relative_to(work)): path.read_bytes() for path in work.glob("*/**/*.json")}


def _inspect(damage: Damage, before: dict[str, bytes], after: dict[str, bytes], log: str) -> None:
    damage.changed += [name for name, receipt in before.items() if after.get(name) != receipt]
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{") and line.endswith("}")]
    # Dealing rows out goes through all chunks again after a crash; it is no unit of its own and commits nothing twice.
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
    parser.add_argument("--seconds", type=float, default=30.0, help="the latest moment of a kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--id", default="id", help="the id column")
    arguments = parser.parse_args()
    started = time.time()
    damage = run_with_kills(
        arguments.job,
        [f"output.uri={arguments.output}"],
        work_of(arguments.output),
        arguments.kills,
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
