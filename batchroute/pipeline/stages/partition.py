"""Partition: decides on all scores, then deals the rows out to the shards of the two models, in pieces to generate."""

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
from batchroute.tables.types import plain


class Partition(BaseModel):
    """How the rows were dealt out; its file is there when all shards are."""

    model_config = ConfigDict(frozen=True)

    decided: list[Decided] = []
    rows: dict[Side, int]
    copies: dict[Side, int]
    units: dict[Side, int]


def read_partition(work: Workdir) -> Partition | None:
    """None until the stage is done."""
    found = work.read_json(layout.PARTITION)
    return None if found is None else Partition.model_validate(found)


def partition(context: Context) -> Partition:
    """Deal all rows out. Deterministic: a second attempt makes the same pieces, and skips those already there."""
    found = read_partition(context.work)
    if found is not None:
        return found
    decision = decide_on(context)
    copies = find_copies(context, decision.small)
    shards = {side: ShardWriter(context, side, copies[side]) for side in SIDES}
    stage = context.work.stage(layout.SCORE)
    scored = stage.receipts()
    reader = context.table.reader([context.job.input.prompt])

    def deal(chunk: Span) -> Receipt:
        rows = stage.read(chunk.unit, ["position", "tokens", "error_type"])
        prompts = pa.chunked_array([plain(batch.column(0)) for batch in reader.read(chunk.start, chunk.stop)])
        small = decision.small[chunk.start : chunk.stop]
        usable = rows["error_type"].is_null().to_numpy()
        for side, mask in (("small", small & usable), ("large", ~small & usable)):
            shards[cast(Side, side)].add(rows, prompts, np.flatnonzero(mask))
        return scored[chunk.unit]

    chunks = context.snapshot.chunks()
    with context.engine.progress.stage("partition", len(chunks), []) as report:
        for chunk in chunks:
            context.engine.check()
            report(deal(chunk))
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
