"""`batchroute plan --simulate`: time and cost of a job on more rows and more workers, by the units that a run has done.

Units go to workers as they do in a run: whoever is free takes the next one, and all wait between two stages. A unit
takes as many seconds a row as a measured one, drawn at random, and as long as most of them to be committed. Nothing is
known of what no unit has shown: queues of a cluster, a bucket that slows down, machines that differ, workers that die.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from batchroute.config.job import Job
from batchroute.costs.prices import Price, usd
from batchroute.errors import InputError
from batchroute.pipeline import layout
from batchroute.pipeline.context import Snapshot, output_folder
from batchroute.pipeline.identity import identify
from batchroute.pipeline.shards.names import READ, SHARDS, shard_stage, side_of
from batchroute.pipeline.stages.snapshot import unit_bounds
from batchroute.storage.folder import Folder
from batchroute.storage.receipts import Receipt
from batchroute.storage.workdir import Workdir
from batchroute.words import duration, money

ROWS = (1_000_000, 10_000_000, 100_000_000)
WORKERS = (1, 2, 4, 8, 16, 32, 64)
_SEED = 0
# More units than this are drawn as so many larger ones, which changes the end of a stage by one of them at most.
_MOST_UNITS = 100_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One stage of a run, as its receipts show it.

    Attributes:
        rate: seconds a row of each unit, shape [units].
        share: rows of the stage for each row of the input.
        fixed: rows of the stage whatever the input has, such as those of tonight's calibration; None: by `share`.
        between: seconds of each unit, whatever its rows, that no receipt counts: to commit it and to read the next one.
            0 where units overlap, whose pace has them in it (`at_once`).
        load: seconds until a worker has loaded the stage's model.
        at_once: units that one worker does at the same time.
        alone: one process does the stage, however many there are: rank 0, or the client of an endpoint whose rate limit
            all would share.
        price: by time; None: by token, or none.
        pico: pico-dollars a row, where the price is by token.
    """

    name: str
    rate: Floats
    share: float
    between: float = 0.0
    load: float = 0.0
    fixed: int | None = None
    at_once: float = 1.0
    alone: bool = False
    price: Price | None = None
    pico: float = 0.0

    def rows(self, of_input: int) -> int:
        return self.fixed if self.fixed is not None else round(self.share * of_input)


@dataclass(frozen=True)
class Night:
    """
    Attributes:
        seconds: from the first unit to the last.
        alone: the part of them in which one process works and the others wait.
        cost: USD, as a run's report counts it: time on a device that waits, or for a commit, is not in it.
    """

    rows: int
    workers: int
    seconds: float
    alone: float
    cost: float


def simulate(job: Job) -> tuple[list[Measured], list[Night]]:
    """The nights of all `ROWS` with all `WORKERS`.

    Raises:
        InputError: no run of the job has done units of every stage that it needs.
    """
    stages, snapshot = _measure(job)
    nights = []
    for rows in ROWS:
        chunk, unit, part = unit_bounds(job, snapshot.row_bytes, rows)
        sizes = {stage.name: unit for stage in stages} | {layout.SCORE: chunk, layout.MERGE: part}
        nights += [night(stages, rows, workers, sizes) for workers in WORKERS]
    return stages, nights


def night(stages: Sequence[Measured], rows: int, workers: int, sizes: Mapping[str, int]) -> Night:
    """One simulated night.

    Args:
        sizes: rows in a unit, by stage.
    """
    chance = np.random.default_rng(_SEED)
    seconds = alone = pico = 0.0
    for stage in stages:
        of_stage = stage.rows(rows)
        if not of_stage:
            continue
        real = -(-of_stage // sizes[stage.name])
        units = min(_MOST_UNITS, real)
        busy = of_stage / units * chance.choice(stage.rate, units)
        count = 1 if stage.alone else workers
        whole = busy + stage.between * real / units
        takes = stage.load + _makespan(whole, max(1, round(count * stage.at_once)))
        seconds += takes
        alone += takes if stage.alone else 0.0
        pico += of_stage * stage.pico
        if stage.price is not None:
            pico += stage.price.of_seconds(float(busy.sum()) + stage.load * min(count, units))
    return Night(rows, workers, seconds, alone, float(usd(round(pico))))


def _makespan(seconds: Floats, workers: int) -> float:
    """When the last unit is done, if whoever is free takes the next one."""
    if workers == 1:
        return float(seconds.sum())
    free = [0.0] * min(workers, len(seconds))
    for takes in seconds.tolist():
        heapq.heapreplace(free, free[0] + takes)
    return max(free)


def _measure(job: Job) -> tuple[list[Measured], Snapshot]:
    output, identity = output_folder(job), identify(job)
    work = Workdir(output, identity.run_id)
    begun = work.read_json(layout.RUN)
    if begun is None:
        raise InputError(
            f"{output}: no run of this job has left units to measure; run it on a part of the rows, such as one file, "
            "with output.keep_work, which is the default, and ask again with the same settings"
        )
    snapshot = Snapshot.model_validate(begun)
    stages = [_stage(layout.SCORE, _done(output, work, layout.SCORE), price=snapshot.price("router"))]
    written = {shard: list(shard_stage(work, shard).receipts().values()) for shard in SHARDS}
    shares = {shard: sum(receipt.rows for receipt in found) / snapshot.rows for shard, found in written.items()}
    stages += [_stage(f"writing {one}", written[one], shares[one], alone=True) for one in SHARDS if shares[one]]
    for shard in SHARDS:
        if shares[shard]:
            side, found = side_of(shard), _done(output, work, shard)
            fixed = round(shares[shard] * snapshot.rows) if shard.startswith("calibration") else None
            alone = job.models.of(side).record.behind_api
            stages.append(_stage(shard, found, shares[shard], fixed, alone, snapshot.price(side)))
    for shard, stage in READ.items():
        if shares[shard] and work.stage(stage).receipts():
            fixed = round(shares[shard] * snapshot.rows) if shard.startswith("calibration") else None
            read = _done(output, work, stage)
            stages.append(_stage(stage, read, shares[shard], fixed, price=snapshot.price("router")))
    return [*stages, _stage(layout.MERGE, _done(output, work, layout.MERGE))], snapshot


def _done(output: Folder, work: Workdir, stage: str) -> list[Receipt]:
    found = [receipt for receipt in work.stage(stage).receipts().values() if receipt.rows]
    if not found:
        raise InputError(f"{output}: no unit of the stage {stage} is done yet; let the run go on, and ask again")
    return found


def _stage(
    name: str,
    receipts: Sequence[Receipt],
    share: float = 1.0,
    fixed: int | None = None,
    alone: bool = False,
    price: Price | None = None,
) -> Measured:
    by_time = price is not None and not price.by_token
    return Measured(
        name,
        np.array([receipt.seconds / receipt.rows for receipt in receipts]),
        share,
        between=_between(receipts),
        load=max(receipt.load_seconds for receipt in receipts),
        fixed=fixed,
        at_once=_at_once(receipts),
        alone=alone,
        price=price if by_time else None,
        pico=0.0 if by_time else _mean_cost(receipts),
    )


def _mean_cost(receipts: Sequence[Receipt]) -> float:
    return sum(receipt.counts.get("cost_pico", 0) for receipt in receipts) / sum(receipt.rows for receipt in receipts)


def _between(receipts: Sequence[Receipt]) -> float:
    """The median time in which no unit was done before the next one began: a run that was stopped for hours, or a
    worker that loaded its model, is one gap of many.
    """
    gaps, end = [], None
    for start, stop in _spans(receipts):
        if end is not None:
            gaps.append(max(0.0, start - end))
        end = stop if end is None else max(end, stop)
    return float(np.quantile(gaps, 0.5, method="lower")) if gaps else 0.0


def _spans(receipts: Sequence[Receipt]) -> list[tuple[float, float]]:
    return sorted((receipt.finished - receipt.seconds, receipt.finished) for receipt in receipts)


def _at_once(receipts: Sequence[Receipt]) -> float:
    """How many units were done at the same time, on average over the time in which any was: no gap counts."""
    covered, end = 0.0, float("-inf")
    for start, stop in _spans(receipts):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    busy = sum(receipt.seconds for receipt in receipts)
    return max(1.0, min(busy / covered, float(os.cpu_count() or 1))) if covered else 1.0


def show(stages: Sequence[Measured], nights: Sequence[Night]) -> None:
    """Print the table, with what it stands on."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    table = Table(title="simulated nights", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("rows", "workers", "time", "of it one process alone", "cost"):
        table.add_column(heading, justify="right")
    for one in nights:
        table.add_row(
            f"{one.rows:,}", str(one.workers), duration(one.seconds), duration(one.alone), money(one.cost),
            end_section=one.workers == WORKERS[-1],
        )  # fmt: skip
    console.print(table)
    done = ", ".join(f"{stage.name} {len(stage.rate):,}" for stage in stages)
    between = ", ".join(f"{stage.name} {1000 * stage.between:.0f} ms" for stage in stages)
    for line in (
        f"by the units of a run of this job: {done}",
        "a worker is one copy of a model on its GPUs, as the measured one; a model behind an endpoint is asked by one "
        "process at the measured pace, since all share its rate limit",
        "if the measured run had several ranks, merging took place on all of them, and is faster here than it will be",
        f"committing a unit and reading the next one took, by stage: {between}",
        "not in it: listing the input, the decision and the report, which one process does; waiting for machines or "
        "for a provider's batches; machines that differ or die",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
