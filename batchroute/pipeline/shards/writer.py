"""Writing a shard in pieces: the rows that one model answers. A piece is one unit of generation."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchroute.pipeline.context import Snapshot
from batchroute.pipeline.shards.background import Background
from batchroute.pipeline.shards.copies import Copies
from batchroute.pipeline.shards.names import Shard, shard_stage
from batchroute.storage.receipts import Facts
from batchroute.storage.workdir import Workdir
from batchroute.tables.prompts import PromptKind, column_type

# A piece holds at most this many rows for each row to generate; else a shard of mostly copies makes huge pieces.
_MOST_COPIES_A_ROW = 16

Mask = npt.NDArray[np.bool_]


def _schema(kind: PromptKind) -> pa.Schema:
    return pa.schema(
        [
            pa.field("position", pa.int64()),
            pa.field("prompt", column_type(kind)),
            pa.field("tokens", pa.int32()),
            pa.field("copy_of", pa.int64()),  # position of the first row of this shard with the same prompt
        ]
    )


class Laps:
    """A watch that the writers of one pass over the rows share: their pieces take, in all, as long as the pass."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()

    def seconds(self) -> float:
        """Since the last call, or since the watch began."""
        begun, self._begun = self._begun, time.perf_counter()
        return self._begun - begun


@dataclass
class ShardWriter:
    """Writes one shard: rows gather until they make a piece.

    Attributes:
        background: writes the pieces; without it, `add` and `close` do.
        laps: times the pieces.
    """

    work: Workdir
    snapshot: Snapshot
    name: Shard
    copies: Copies
    background: Background | None = None
    laps: Laps = field(default_factory=Laps)
    rows: int = 0
    units: int = 0
    _gathered: list[pa.Table] = field(default_factory=list)
    _gathered_rows: int = 0
    _to_generate: int = 0

    def __post_init__(self) -> None:
        self._stage = shard_stage(self.work, self.name)
        self._done = self._stage.receipts()
        self._schema = _schema(self.snapshot.prompt_kind)

    def add(self, rows: pa.Table, prompts: pa.ChunkedArray, which: npt.NDArray[np.intp]) -> None:
        """Add the rows at the indices `which` of a chunk.

        Args:
            prompts: of all rows of the chunk, as a shard keeps them.
        """
        copy_of = self.copies.of(rows["position"].to_numpy()[which])
        to_generate = copy_of.is_null().to_numpy(zero_copy_only=False)
        start = 0
        while start < len(which):
            stop = start + self._fitting(to_generate[start:])
            piece = which[start:stop]
            taken = rows.select(["position", "tokens"]).take(piece)
            columns = [taken["position"], prompts.take(piece), taken["tokens"], copy_of[start:stop]]
            self._gathered.append(pa.table(columns, schema=self._schema))
            self._gathered_rows += len(piece)
            self._to_generate += int(to_generate[start:stop].sum())
            start = stop
            if self._full():
                self._write()

    def close(self) -> None:
        if self._gathered_rows:
            self._write()

    def _fitting(self, to_generate: Mask) -> int:
        """How many of the next rows still go into the current piece; at least one."""
        size = self.snapshot.unit_rows
        by_work = int(np.searchsorted(np.cumsum(to_generate), size - self._to_generate)) + 1
        return min(by_work, size * _MOST_COPIES_A_ROW - self._gathered_rows, len(to_generate))

    def _full(self) -> bool:
        size = self.snapshot.unit_rows
        return self._to_generate >= size or self._gathered_rows >= size * _MOST_COPIES_A_ROW

    def _write(self) -> None:
        unit = f"{self.units:05d}"
        if unit not in self._done:
            commit = functools.partial(self._commit, unit, self._gathered, self.laps.seconds())
            if self.background is None:
                commit()
            else:
                self.background.do(commit)
        self.rows += self._gathered_rows
        self.units += 1
        self._gathered, self._gathered_rows, self._to_generate = [], 0, 0

    def _commit(self, unit: str, gathered: list[pa.Table], seconds: float) -> None:
        table = pa.concat_tables(gathered).combine_chunks()
        copies = table.num_rows - table["copy_of"].null_count
        own = table.filter(table["copy_of"].is_null()) if copies else table
        tokens = pc.sum(own["tokens"]).as_py() or 0
        longest = pc.max(own["tokens"]).as_py() or 0
        facts = Facts(
            run_id=self.snapshot.run_id,
            unit=unit,
            rows=table.num_rows,
            first=table["position"][0].as_py(),
            last=table["position"][-1].as_py(),
            seconds=seconds,
            counts={"copies": copies, "tokens": tokens, "bytes": own["prompt"].nbytes, "longest": longest},
        )
        by_length = table.take(pc.sort_indices(table, [("tokens", "ascending"), ("position", "ascending")]))
        self._stage.commit(facts, self._schema, by_length.to_batches())
