"""Partition: decides by all scores, then writes the rows into the shards of the two models, in pieces to generate."""

from __future__ import annotations

from typing import cast

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from batchroute.fields import SIDES, Side
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.copies import find_copies
from batchroute.pipeline.shards.writer import ShardWriter
from batchroute.pipeline.stages.decide import decide_on
from batchroute.policy.decision import Decided
from batchroute.storage.receipts import Receipt
from batchroute.storage.units import Span
from batchroute.storage.workdir import Workdir
from batchroute.words import plural


class Partition(BaseModel):
    """How the rows were assigned to the two models; its file is written when all shards are."""

    model_config = ConfigDict(frozen=True)

    decided: list[Decided] = []
    rows: dict[Side, int]
    copies: dict[Side, int]
    units: dict[Side, int]


def read_partition(work: Workdir) -> Partition | None:
    """None until the stage is done."""
    tree = work.read_json(layout.PARTITION)
    return None if tree is None else Partition.model_validate(tree)


def partition(context: Context) -> Partition:
    """Assign all rows. Deterministic: a second attempt makes the same pieces, and skips those that are written."""
    earlier = read_partition(context.work)
    if earlier is not None:
        return earlier
    decision = decide_on(context)
    work, frozen, models = context.work, context.snapshot, context.job.models
    stage, chunks = work.stage(layout.SCORE), frozen.chunks()
    scored = stage.receipts()
    greedy = [side for side in SIDES if models.of(side).generation.greedy]
    copies = find_copies(stage, chunks, decision.small, greedy)
    shards = {side: ShardWriter(work, frozen, side, copies[side]) for side in SIDES}
    unsupported = sum(receipt.counts.get("unsupported", 0) for receipt in scored.values())
    if unsupported:
        rows_hold = f"{plural(unsupported, 'row')} with images or the like"
        context.engine.progress.note("partition", f"{rows_hold} to the large model, by input.unsupported")
    reader = context.table.reader(context.prompts.columns)

    def assign(chunk: Span) -> Receipt:
        rows = stage.read(chunk.unit, ["position", "tokens", "error_type"])
        batches = reader.read(chunk.start, chunk.stop)
        prompts = pa.chunked_array([context.prompts.stored(batch) for batch in batches])
        small = decision.small[chunk.start : chunk.stop]
        usable = rows["error_type"].is_null().to_numpy()
        for side, mask in (("small", small & usable), ("large", ~small & usable)):
            shards[cast(Side, side)].add(rows, prompts, np.flatnonzero(mask))
        return scored[chunk.unit]

    with context.engine.progress.stage("partition", len(chunks), []) as report:
        for chunk in chunks:
            context.engine.check()
            report(assign(chunk))
    for shard in shards.values():
        shard.close()
    result = Partition(
        decided=decision.decided,
        rows={side: shard.rows for side, shard in shards.items()},
        copies={side: len(shard.copies.copies) for side, shard in shards.items()},
        units={side: shard.units for side, shard in shards.items()},
    )
    context.work.put_json(layout.PARTITION, result.model_dump(mode="json"))
    return result
