"""Reading: a reader of answers reads each answer of the small model together with its prompt. Its reading is a signal.

Only where the job names a reader, and where answers decide.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchroute.costs.usage import RouterUsage, router_usage
from batchroute.pipeline import sharing
from batchroute.pipeline.context import Context
from batchroute.pipeline.readers import has_heads, load_reader, other_small_model
from batchroute.pipeline.shards.names import READ, Shard, shard_stage
from batchroute.prompt import as_text
from batchroute.router.reading import joined
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.units import Stage
from batchroute.tables.prompts import of_shard

SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("reading", pa.float32()),  # null: no answer, a copy, or the reader gave no number
    ]
)

_SHARDS = {stage: shard for shard, stage in READ.items()}


def is_read(context: Context, shard: Shard) -> bool:
    """Whether a reader reads the shard's answers. One that is fitted to tonight's rows does once it is fitted."""
    job = context.job
    if shard not in READ or job.reader is None:
        return False
    return job.models.small.reader is not None or has_heads(context.work)


def read_answers(context: Context, shard: Shard) -> None:
    """Read the answers of all units of the shard that have no receipt yet; all of them must be answered.

    Nothing is read if the job has no reader.
    """
    if not is_read(context, shard):
        return
    units = list(shard_stage(context.work, shard).receipts().values())
    with context.engine.workers(context, AnswerReader, "router") as workers:
        workers.run(READ[shard], units)


class AnswerReader:
    """A worker that loads the reader and reads the answers of units."""

    units_at_once = 1

    def __init__(self, context: Context) -> None:
        progress = context.engine.progress
        progress.note("load", f"loading the reader {context.job.reader}")
        self._context = context
        self._reader = load_reader(context.job, context.work, context.engine.device)
        sharing.keep(context.work, "reader", self._reader)
        self._load_seconds = self._reader.load_seconds
        for note in (*self._reader.notes, other_small_model(context.job)):
            if note is not None:
                progress.note("load", note)

    def do(self, stage: str, piece: Receipt) -> Receipt:
        from batchroute.router.scoring import score

        started = time.perf_counter()
        unread = Unread.of(self._context, _SHARDS[stage], piece.unit)
        found = score(self._reader, unread.texts)
        load_seconds, self._load_seconds = self._load_seconds, 0.0
        counts = {"tokens": int(found.tokens.sum()), "truncated": int(found.truncated.sum())}
        seconds = {"seconds": time.perf_counter() - started, "load_seconds": load_seconds}
        return put_readings(self._context.work.stage(stage), piece, unread, found.scores, counts, seconds)

    def close(self) -> None:
        self._reader.close()


@dataclass(frozen=True, slots=True)
class Unread:
    """The answers of a unit.

    Attributes:
        positions: of all rows.
        there: which of them have an answer that can be read: shape [rows].
        prompts, texts: of these: each prompt, and what a reader reads.
    """

    positions: pa.ChunkedArray
    there: NDArray[np.bool_]
    prompts: list[str]
    texts: list[str]

    @classmethod
    def of(cls, context: Context, shard: Shard, unit: str) -> Unread:
        work = context.work
        answers = work.stage(shard).read(unit, ["position", "response", "error_type"])
        there = pc.and_(answers["response"].is_valid(), answers["error_type"].is_null())
        answered = answers.filter(there)
        rows = shard_stage(work, shard).read(unit, ["position", "prompt"]).sort_by("position")
        at = np.searchsorted(rows["position"].to_numpy(), answered["position"].to_numpy())
        prompts = [
            as_text(prompt) for prompt in of_shard(rows["prompt"].take(pa.array(at)), context.snapshot.prompt_kind)
        ]
        responses = answered["response"].to_pylist()
        texts = [joined(prompt, answer) for prompt, answer in zip(prompts, responses, strict=True)]
        return cls(answers["position"], there.to_numpy(), prompts, texts)


def put_readings(
    stage: Stage,
    piece: Receipt,
    unread: Unread,
    found: NDArray[np.float32],
    counts: dict[str, int],
    seconds: dict[str, float],
) -> Receipt:
    """Put the readings of a unit.

    Args:
        piece: the unit in its shard.
        found: of the answers that can be read, NaN without a number.
        counts: tokens, and texts that were cut.
        seconds: that reading and loading took.
    """
    readings = np.full(len(unread.there), np.nan, np.float32)
    readings[unread.there] = found
    table = pa.table([unread.positions, pa.array(readings, from_pandas=True)], schema=SCHEMA)
    facts = Facts(
        run_id=stage.run_id,
        unit=piece.unit,
        rows=piece.rows,
        first=piece.first,
        last=piece.last,
        counts={"failed": piece.rows - len(found), **counts, "unscored": int(np.isnan(found).sum())},
        **seconds,
    )
    return stage.commit(facts, SCHEMA, table.to_batches())


def readings_of(context: Context, shard: Shard) -> Stage | None:
    """The stage with the readings of a shard's answers; None if none are read."""
    return context.work.stage(READ[shard]) if is_read(context, shard) else None


def with_readings(readings: Stage | None, unit: str, answers: pa.Table) -> pa.Table:
    """The answers of a unit, whose rows are all there, with the column `reading` if they were read."""
    if readings is None:
        return answers
    read = readings.read(unit)
    assert read["position"].equals(answers["position"])
    return answers.append_column(SCHEMA.field("reading"), read["reading"])


def reader_usage(context: Context) -> RouterUsage | None:
    """What reading took, at the router's price; None if the job has no reader."""
    name = context.job.reader
    if name is None:
        return None
    price = context.snapshot.prices["router"]
    return router_usage(name, price.price, _read(context), price.source)


def cost_of_reading(context: Context) -> float:
    """What reading one answer costs at the router's price in pico-dollars, without loading; 0 if none were read."""
    price, read = context.snapshot.price("router"), _read(context)
    if price is None or not read:
        return 0.0
    tokens, seconds = sum(one.counts["tokens"] for one in read), sum(one.seconds for one in read)
    cost = price.of_tokens(tokens, 0) if price.by_token else price.of_seconds(seconds)
    return cost / max(1, sum(one.rows - one.counts["failed"] for one in read))


def _read(context: Context) -> list[Receipt]:
    return [receipt for stage in READ.values() for receipt in context.work.stage(stage).receipts().values()]
