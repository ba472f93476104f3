"""Reading: a reader of answers reads each answer of the small model together with its prompt. Its reading is a signal.

Only where the job names a reader, and where answers decide.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchroute.costs.usage import RouterUsage, router_usage
from batchroute.pipeline import sharing
from batchroute.pipeline.context import Context
from batchroute.pipeline.readers import other_small_model
from batchroute.pipeline.shards.names import READ, Shard, shard_stage
from batchroute.prompt import as_text
from batchroute.router.reading import joined
from batchroute.storage.receipts import Facts, Receipt
from batchroute.tables.prompts import of_shard

SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("reading", pa.float32()),  # null: no answer, a copy, or the reader gave no number
    ]
)

_SHARDS = {stage: shard for shard, stage in READ.items()}


def read_answers(context: Context, shard: Shard) -> None:
    """Read the answers of all units of the shard that have no receipt yet; all of them must be answered.

    Nothing is read if the job has no reader.
    """
    if context.job.models.small.reader is None:
        return
    units = list(shard_stage(context.work, shard).receipts().values())
    with context.engine.workers(context, AnswerReader, "router") as workers:
        workers.run(READ[shard], units)


class AnswerReader:
    """A worker that loads the reader and reads the answers of units."""

    units_at_once = 1

    def __init__(self, context: Context) -> None:
        from batchroute.router.model import Router

        name, progress = context.job.models.small.reader, context.engine.progress
        assert name is not None
        progress.note("load", f"loading the reader {name}")
        self._context = context
        self._reader = Router.load(name, context.engine.device, reads="answer")
        sharing.keep(context.work, "reader", self._reader)
        self._load_seconds = self._reader.load_seconds
        for note in (*self._reader.notes, other_small_model(context.job)):
            if note is not None:
                progress.note("load", note)

    def do(self, stage: str, piece: Receipt) -> Receipt:
        from batchroute.router.scoring import score

        started, work, shard = time.perf_counter(), self._context.work, _SHARDS[stage]
        answers = work.stage(shard).read(piece.unit, ["position", "response", "error_type"])
        there = pc.and_(answers["response"].is_valid(), answers["error_type"].is_null())
        answered = answers.filter(there)
        prompts = shard_stage(work, shard).read(piece.unit, ["position", "prompt"]).sort_by("position")
        at = np.searchsorted(prompts["position"].to_numpy(), answered["position"].to_numpy())
        texts = of_shard(prompts["prompt"].take(pa.array(at)), self._context.snapshot.prompt_kind)
        pairs = [
            joined(as_text(prompt), answer)
            for prompt, answer in zip(texts, answered["response"].to_pylist(), strict=True)
        ]
        found = score(self._reader, pairs)
        readings = np.full(answers.num_rows, np.nan, np.float32)
        readings[there.to_numpy()] = found.scores
        table = pa.table([answers["position"], pa.array(readings, from_pandas=True)], schema=SCHEMA)
        load_seconds, self._load_seconds = self._load_seconds, 0.0
        target = work.stage(stage)
        facts = Facts(
            run_id=target.run_id,
            unit=piece.unit,
            rows=piece.rows,
            first=piece.first,
            last=piece.last,
            seconds=time.perf_counter() - started,
            load_seconds=load_seconds,
            counts={
                "failed": piece.rows - len(pairs),
                "tokens": int(found.tokens.sum()),
                "truncated": int(found.truncated.sum()),
                "unscored": int(np.isnan(found.scores).sum()),
            },
        )
        return target.commit(facts, SCHEMA, table.to_batches())

    def close(self) -> None:
        self._reader.close()


def with_readings(context: Context, shard: Shard, unit: str, answers: pa.Table) -> pa.Table:
    """The answers of a unit, whose rows are all there, with the column `reading` if the job has a reader."""
    if context.job.models.small.reader is None or shard not in READ:
        return answers
    read = context.work.stage(READ[shard]).read(unit)
    assert read["position"].equals(answers["position"])
    return answers.append_column(SCHEMA.field("reading"), read["reading"])


def reader_usage(context: Context) -> RouterUsage | None:
    """What reading took, at the router's price; None if the job has no reader."""
    name = context.job.models.small.reader
    if name is None:
        return None
    receipts = [receipt for stage in READ.values() for receipt in context.work.stage(stage).receipts().values()]
    price = context.snapshot.prices["router"]
    return router_usage(name, price.price, receipts, price.source)
