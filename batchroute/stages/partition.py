"""Partition: decides on all scores, then deals the rows out to the shards of the two models, in pieces to generate."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from batchroute.router.calibration import Calibration
from batchroute.router.policy import Cutoff
from batchroute.spec import Side
from batchroute.stages import score
from batchroute.stages.context import Context, Span
from batchroute.stages.copies import Copies, find_copies
from batchroute.stages.score import floats
from batchroute.storage.workdir import Facts, Receipt, Stage, Workdir
from batchroute.tables.prompts import BadPrompt, column_type, read_prompts, to_column
from batchroute.tables.types import plain

PARTITION = "shards/partition.json"
# A shard of mostly copies would otherwise make pieces of thousands of files' worth of rows with little to generate.
_MOST_COPIES_A_ROW = 16

Mask = npt.NDArray[np.bool_]


class Partition(BaseModel):
    """How the rows were dealt out; its file is there when all shards are."""

    model_config = ConfigDict(frozen=True)

    cutoff: Cutoff
    rows: dict[Side, int]
    copies: dict[Side, int]
    units: dict[Side, int]


def shard_stage(work: Workdir, side: Side) -> Stage:
    return work.stage(f"shards/{side}")


def shard_schema(context: Context) -> pa.Schema:
    return pa.schema(
        [
            pa.field("position", pa.int64()),
            pa.field("prompt", column_type(context.snapshot.prompt_kind)),
            pa.field("tokens", pa.int32()),
            pa.field("copy_of", pa.int64()),  # position of the first row of this shard with the same prompt
        ]
    )


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
    shards = {side: _Shard(context, side, copies) for side, copies in find_copies(context, cutoff).items()}
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


@dataclass
class _Shard:
    """One shard being written: rows gather until they make a piece."""

    context: Context
    side: Side
    copies: Copies
    rows: int = 0
    units: int = 0
    _gathered: list[pa.Table] = field(default_factory=list)
    _gathered_rows: int = 0
    _to_generate: int = 0

    def __post_init__(self) -> None:
        self._stage = shard_stage(self.context.work, self.side)
        self._done = self._stage.receipts()
        self._schema = shard_schema(self.context)
        self._begun = time.perf_counter()

    def add(self, rows: pa.Table, prompts: pa.ChunkedArray, which: npt.NDArray[np.intp]) -> None:
        """Add the rows at the indices `which` of a chunk."""
        copy_of = self.copies.of(rows["position"].to_numpy()[which])
        to_generate = copy_of.is_null().to_numpy(zero_copy_only=False)
        start = 0
        while start < len(which):
            stop = start + self._room(to_generate[start:])
            piece = which[start:stop]
            taken = rows.select(["position", "tokens"]).take(piece)
            prompt = _as_shard_prompts(prompts.take(piece), self.context)
            self._gathered.append(
                pa.table([taken["position"], prompt, taken["tokens"], copy_of[start:stop]], schema=self._schema)
            )
            self._gathered_rows += len(piece)
            self._to_generate += int(to_generate[start:stop].sum())
            start = stop
            if self._full():
                self._write()

    def close(self) -> None:
        if self._gathered_rows:
            self._write()

    def _room(self, to_generate: Mask) -> int:
        """How many of the next rows still belong to the piece in hand; at least one."""
        size = self.context.snapshot.unit_rows
        by_work = int(np.searchsorted(np.cumsum(to_generate), size - self._to_generate)) + 1
        return min(by_work, size * _MOST_COPIES_A_ROW - self._gathered_rows, len(to_generate))

    def _full(self) -> bool:
        size = self.context.snapshot.unit_rows
        return self._to_generate >= size or self._gathered_rows >= size * _MOST_COPIES_A_ROW

    def _write(self) -> None:
        unit = f"{self.units:05d}"
        if unit not in self._done:
            self._commit(unit, pa.concat_tables(self._gathered).combine_chunks())
        self.rows += self._gathered_rows
        self.units += 1
        self._gathered, self._gathered_rows, self._to_generate = [], 0, 0
        self._begun = time.perf_counter()

    def _commit(self, unit: str, table: pa.Table) -> None:
        positions = table["position"]
        copies = table.num_rows - table["copy_of"].null_count
        facts = Facts(
            run_id=self.context.snapshot.run_id,
            unit=unit,
            rows=table.num_rows,
            first=positions[0].as_py(),
            last=positions[-1].as_py(),
            seconds=time.perf_counter() - self._begun,
            counts={
                "copies": copies,
                "tokens": pc.sum(table["tokens"].filter(table["copy_of"].is_null())).as_py() or 0,
            },
        )
        by_length = table.take(pc.sort_indices(table, [("tokens", "ascending"), ("position", "ascending")]))
        self._stage.commit(facts, self._schema, by_length.to_batches())


def _as_shard_prompts(column: pa.ChunkedArray, context: Context) -> pa.ChunkedArray:
    if context.snapshot.prompt_kind == "text":
        return column.cast(pa.large_string())
    prompts = [prompt for chunk in column.chunks for prompt in read_prompts(chunk, "messages")]
    return pa.chunked_array([to_column((p for p in prompts if not isinstance(p, BadPrompt)), "messages")])
