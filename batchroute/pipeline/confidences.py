"""Confidences of the small model's answers, one a row, as a run keeps them for its audit and its output."""

from __future__ import annotations

import bisect

import numpy as np
import pyarrow as pa

from batchroute.pipeline import layout
from batchroute.pipeline.context import Context
from batchroute.pipeline.stages.scores import values_at
from batchroute.policy.settings import Positions, Scores
from batchroute.storage.receipts import Facts
from batchroute.storage.units import Span
from batchroute.storage.workdir import Workdir

_SCHEMA = pa.schema([pa.field("position", pa.int64()), pa.field("confidence", pa.float32())])


def put_confidences(context: Context, confidence: Scores) -> None:
    """Write the units that have no receipt yet: one for each part of the output, since each costs two synced files.

    Args:
        confidence: shape [rows], by position; NaN where there is none.
    """
    stage = context.work.stage(layout.CONFIDENCE)
    done = stage.receipts()
    for part in context.snapshot.parts():
        if part.unit not in done:
            context.engine.check()
            values = pa.array(confidence[part.start : part.stop], from_pandas=True)
            table = pa.table([pa.array(np.arange(part.start, part.stop)), values], _SCHEMA)
            stage.commit(Facts.of(stage.run_id, part.unit, part.positions), _SCHEMA, table.to_batches())


class Confidences:
    """Reads them, with one unit in memory. Units of earlier versions, one for each chunk, are read where they are.

    False where the run has none: its policy decides before, or has not decided yet.
    """

    def __init__(self, work: Workdir) -> None:
        stages = [work.stage(name) for name in (layout.CONFIDENCE, layout.EARLIER_CONFIDENCE)]
        self._stage = next((stage for stage in stages if stage.receipts()), stages[0])
        units = self._stage.receipts().values()
        self._units = [Span(unit.unit, unit.first, unit.last + 1) for unit in units if unit.rows]
        self._firsts = [unit.start for unit in self._units]
        self._read: tuple[int, pa.ChunkedArray] | None = None

    def __bool__(self) -> bool:
        return bool(self._units)

    def within(self, start: int, stop: int) -> pa.ChunkedArray:
        """Of the rows from `start` up to `stop`, at least one; null where there is none."""
        pieces: list[pa.Array] = []
        for number in range(bisect.bisect_right(self._firsts, start) - 1, bisect.bisect_left(self._firsts, stop)):
            first = self._firsts[number]
            pieces += self._unit(number)[max(start - first, 0) : stop - first].chunks
        return pa.chunked_array(pieces, pa.float32())

    def at(self, positions: Positions) -> Scores:
        """Of some rows, by ascending position; 0 where there is none."""
        return values_at(self._units, positions, lambda unit: self.within(unit.start, unit.stop))

    def _unit(self, number: int) -> pa.ChunkedArray:
        if self._read is None or self._read[0] != number:
            self._read = number, self._stage.read(self._units[number].unit, ["confidence"])["confidence"]
        return self._read[1]
