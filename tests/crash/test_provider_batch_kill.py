"""Crashes of a job whose large model answers in provider batches: nothing is submitted twice, and no row is lost.

The provider is a process of its own, and lives on.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from tests.crash import forking
from tests.crash.forking import CRASHED, Crash
from tests.crash.places import Place
from tests.support.openai_server import ServerProcess
from tests.support.provider_batches import KEYS, batch_job
from tests.support.vendor_server import VendorProcess
from tests.support.vendor_server.server import VENDORS

KILLS = 10
ROWS = 24
_KILLS_OF_AN_OUTPUT = 5
# Until the next call of the provider or so, and until all batches have ended.
_SECONDS = (0.03, 0.4)


@dataclass
class BatchPlace(Place):
    """Each output has prompts of its own, so that the server knows them apart."""

    def new_output(self) -> str:
        name = super().new_output()
        self.folder.settings["models"]["large"]["template"] = f"{self._outputs} {{prompt}}"
        self.job = self.folder.path
        return name

    def check_answers(self, calm: pl.DataFrame) -> None:
        """As in the calm run, which was the first."""
        answers = pl.col("response").str.replace("echo: 1 ", f"echo: {self._outputs} ", literal=True)
        self.check(calm.with_columns(answers))

    def state(self) -> str:
        """How far the batches are: intents written, batches submitted, concluded, and pieces committed."""
        work = Path(f"{self.output}.work")
        batches = "*/batches/large"
        kinds = (f"{batches}/intents/*.json", f"{batches}/submitted/*.json", f"{batches}/*.json", "*/large/*.json")
        return "/".join(str(len(list(work.glob(kind)))) for kind in kinds)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server", batch_seconds=getattr(request, "param", 0.1)) as started:
        yield started


def provider(vendor: str | None, state: Path) -> ServerProcess:
    """The server of a vendor; OpenAI's if None."""
    return VendorProcess(vendor, state, batch_seconds=0.1) if vendor else ServerProcess(state, batch_seconds=0.1)


def place_of(folder: Path, server: ServerProcess, batch_requests: int = 9) -> tuple[BatchPlace, pl.DataFrame]:
    """The job, and what an undisturbed run writes. Its pieces are of 8 rows, so that some are in two batches."""
    job = batch_job(folder, server, rows=ROWS, batch_requests=batch_requests, timeout=0.7, poll_seconds=0.05)
    keys = dict.fromkeys((*KEYS.values(), "OPENAI_API_KEY"), "sk-test")
    where = BatchPlace(job, str(folder / "outputs"), keys)
    where.new_output()
    assert where.run() == 0, forking.lines(where.log, "error")
    return where, where.rows()


@pytest.mark.crash
@pytest.mark.parametrize("server", [0.01], indirect=True)
def test_a_crash_at_every_put_of_the_ledger_is_made_good(tmp_path: Path, server: ServerProcess) -> None:
    where, calm = place_of(tmp_path, server, batch_requests=12)
    puts = [number for number, name in enumerate(forking.lines(where.log, "put")) if "/batches/" in name]
    assert len(puts) == 4 * 2, "an intent, a batch, its outcomes and their receipt, of two batches"
    for put in puts:
        for when in ("before", "after"):
            where.new_output()
            assert where.run(Crash(put, when)) == CRASHED, (put, when)
            before = where.receipts()
            assert where.run() == 0, (put, when, forking.lines(where.log, "error"))
            where.check_answers(calm)
            after = where.receipts()
            assert {name: after[name] for name in before} == before
    assert problems(server, outputs=1 + 2 * len(puts)) == []


@pytest.mark.crash
@pytest.mark.parametrize("vendor", [None, *VENDORS])
def test_kills_at_random_moments_submit_nothing_twice_and_lose_no_row(tmp_path: Path, vendor: str | None) -> None:
    with provider(vendor, tmp_path / "server") as server:
        where, calm = place_of(tmp_path, server)
        tally = kill_often(where, calm, KILLS, seed=1, states=6)
        assert tally.kills >= KILLS
        assert len(tally.states) >= 6, tally.states
        assert problems(server, tally.outputs) == []


@pytest.mark.crash
@pytest.mark.parametrize("vendor", VENDORS)
def test_a_crash_around_a_vendors_paid_call_is_made_good(tmp_path: Path, vendor: str) -> None:
    with VendorProcess(vendor, tmp_path / "server", batch_seconds=0.05) as server:
        where, calm = place_of(tmp_path, server, batch_requests=24)
        puts = forking.lines(where.log, "put")
        intent, submitted = (
            next(number for number, name in enumerate(puts) if f"/{kind}/" in name) for kind in ("intents", "submitted")
        )
        crashes = (Crash(intent, "after"), Crash(submitted, "before"))
        for crash in crashes:
            where.new_output()
            assert where.run(crash) == CRASHED, crash
            assert where.run() == 0, (crash, forking.lines(where.log, "error"))
            where.check_answers(calm)
        assert problems(server, outputs=1 + len(crashes)) == []


@dataclass
class Kills:
    kills: int = 0
    outputs: int = 1
    states: Counter[str] = field(default_factory=Counter)
    """Where they fell."""


def kill_often(where: BatchPlace, calm: pl.DataFrame, kills: int, seed: int, states: int = 0) -> Kills:
    """Kill attempts until there were so many kills; each output is killed a few times and then completed.

    A kill comes a random number of puts into what is left of the job, and a random time after that.

    Args:
        states: in how many different ones kills must have fallen, or three times as many kills: a busy machine is
            slow to make them.
    """
    chance, tally = random.Random(seed), Kills()
    # From the first intent until all answers are committed: before and after it, there is no provider to deal with.
    dealing = [n for n, line in enumerate(forking.lines(where.log, "put")) if "/batches/" in line or "/large/" in line]
    first, last = dealing[0], dealing[-1] + 1
    while tally.kills < kills or (len(tally.states) < states and tally.kills < 3 * kills):
        where.new_output()
        tally.outputs += 1
        here = 0
        while True:
            process, spared = where.start(), here >= _KILLS_OF_AN_OUTPUT
            done = len(forking.lines(where.log, "put"))
            begun = max(done, first)
            stop = begun + chance.randint(0, max(1, last - begun) // 2)
            while not spared and process.is_alive() and len(forking.lines(where.log, "put")) < stop:
                time.sleep(0.002)
            process.join(60 if spared else chance.uniform(0, chance.choice(_SECONDS)))
            if "/data/" in (where.log.read_text() if where.log.exists() else ""):
                # Merging: all that is killed from here on is killed in other tests.
                process.join(60)
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -9, forking.lines(where.log, "error")
            here, tally.kills = here + 1, tally.kills + 1
            tally.states[where.state()] += 1
        where.check_answers(calm)
    return tally


def problems(server: ServerProcess, outputs: int) -> list[str]:
    """What the provider saw that it should not have seen."""
    submitted, completed = server.submitted(), server.completed()
    wrong = [f"{prompt}: submitted {count} times" for prompt, count in submitted.items() if count != 1]
    wrong += [f"{prompt}: answered {count} times" for prompt, count in completed.items() if count != 1]
    if len(submitted) != outputs * ROWS:
        wrong.append(f"{len(submitted)} rows submitted, of {outputs * ROWS}")
    return wrong + [f"{batch['id']}: {batch['status']}" for batch in server.batches() if batch["status"] != "completed"]


def main() -> None:
    """python -m tests.crash.test_provider_batch_kill --kills 200 --vendor anthropic: many more, and what they did."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vendor", choices=VENDORS, help="OpenAI unless given")
    arguments = parser.parse_args()
    started = time.time()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with provider(arguments.vendor, folder / "server") as server:
            where, calm = place_of(folder, server)
            tally = kill_often(where, calm, arguments.kills, arguments.seed)
            wrong = problems(server, tally.outputs)
    print(f"{tally.kills} kills over {tally.outputs} outputs, {time.time() - started:.0f} s: {len(wrong)} problems")
    for state, count in sorted(tally.states.items()):
        print(f"  {count:4} kills at intents/submitted/concluded/committed {state}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
