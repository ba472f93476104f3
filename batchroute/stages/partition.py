"""Partition: decides on all scores, then deals the rows out to the shards of the two models, in pieces to generate."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from batchroute.router.calibration import Calibration
from batchroute.router.policy import Cutoff
from batchroute.spec import Side
from batchroute.stages import score
from batchroute.stages.context import Context, Span
from batchroute.stages.copies import find_copies
from batchroute.stages.score import floats
from batchroute.stages.shards import ShardWriter
from batchroute.storage.workdir import Receipt, Workdir
from batchroute.tables.types import plain

PARTITION = "shards/partition.json"


class Partition(BaseModel):
    """How the rows were dealt out; its file is there when all shards are."""

    model_config = ConfigDict(frozen=True)

    cutoff: Cutoff
    rows: dict[Side, int]
    copies: dict[Side, int]
    units: dict[Side, int]


def read_partition(work: Workdir) -> Partition | None:
    """None until the stage is done."""
    found = work.read_json(PARTITION)
    return None if found is None else Partition.model_validate(found)


def partition(context: Context) -> Partition:
    """Deal all rows out. Deterministic: a second attempt makes the same pieces, and skips those already there."""
    found = read_partition(context.work)
    if found is not None:
        return found
    chunks = _Chunks(context)
    policy = context.job.policy
    calibration = None if policy.max_quality_drop is None else Calibration.of(context.job.router.model)
    cutoff = policy.decide(chunks.scores(), chunks.routable(), calibration)
    shards = {side: ShardWriter(context, side, copies) for side, copies in find_copies(context, cutoff).items()}
    reader = context.table.reader([context.job.input.prompt])

    def deal(chunk: Span) -> Receipt:
        rows = chunks.read(chunk, ["position", "score", "tokens", "error_type"])
        prompts = pa.chunked_array([plain(batch.column(0)) for batch in reader.read(chunk.start, chunk.stop)])
        small = cutoff.small(floats(rows["score"]), rows["position"].to_numpy())
        usable = rows["error_type"].is_null().to_numpy()
        for side, mask in (("small", small & usable), ("large", ~small & usable)):
            shards[cast(Side, side)].add(rows, prompts, np.flatnonzero(mask))
        return chunks.receipts[chunk.unit]

    context.engine.carry_out("partition", context.snapshot.chunks(), [], deal)
    for shard in shards.values():
        shard.close()
    result = Partition(
        cutoff=cutoff,
        rows={side: shard.rows for side, shard in shards.items()},
        copies={side: len(shard.copies.copies) for side, shard in shards.items()},
        units={side: shard.units for side, shard in shards.items()},
    )
    context.work.put_json(PARTITION, result.model_dump(mode="json"))
    return result


class _Chunks:
    """The scores of all chunks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stage = context.work.stage(score.STAGE)
        self.receipts = self._stage.receipts()

    def read(self, chunk: Span, columns: list[str]) -> pa.Table:
        return self._stage.read(chunk.unit, columns)

    def scores(self) -> npt.NDArray[np.float32]:
        """All scores by position, NaN where there is none: 4 bytes a row."""
        scores = np.empty(self._context.snapshot.rows, np.float32)
        for chunk in self._context.snapshot.chunks():
            scores[chunk.start : chunk.stop] = floats(self.read(chunk, ["score"])["score"])
        return scores

    def routable(self) -> int:
        return sum(receipt.rows - receipt.counts["failed"] for receipt in self.receipts.values())
