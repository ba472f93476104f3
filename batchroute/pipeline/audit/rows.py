"""Rows of an audit: which there are, by position, and what both models answered to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchroute.fields import Side
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.writer import Shard, shard_stage
from batchroute.pipeline.stages.scores import floats
from batchroute.quality.measuring.responses import Responses
from batchroute.storage.units import Span, Stage

Positions = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

OF_LARGE: tuple[Literal["large"], Literal["escalated"]] = ("large", "escalated")
"""The shards whose answers are the large model's in the output."""


def small_alone(context: Context) -> Positions:
    """Rows whose final answer is the small model's own, copies of others aside; rising, 8 bytes a row."""
    stage = context.work.stage("small")
    found = [np.empty(0, np.int64)]
    for unit in stage.receipts():
        rows = stage.read(unit, ["position", "copy_of", "error_type"])
        good = pc.and_(rows["copy_of"].is_null(), rows["error_type"].is_null())
        found.append(rows["position"].filter(good).to_numpy())
    positions = np.concatenate(found)
    return positions[~np.isin(positions, dealt_to(context, ["escalated"]))]


def dealt_to(context: Context, shards: Sequence[Shard]) -> Positions:
    """The rows of these shards, copies aside; rising."""
    found = [np.empty(0, np.int64)]
    for stage in (shard_stage(context.work, shard) for shard in shards):
        for unit in stage.receipts():
            rows = stage.read(unit, ["position", "copy_of"])
            found.append(rows["position"].filter(rows["copy_of"].is_null()).to_numpy())
    return np.sort(np.concatenate(found))


def scores_of(context: Context, positions: Positions) -> Scores:
    """Their scores, 0 where there is none. Of a chunk without such rows nothing is read."""
    scores = np.zeros(len(positions), np.float32)
    for chunk in context.snapshot.chunks():
        first, last = np.searchsorted(positions, [chunk.start, chunk.stop])
        if first < last:
            of_chunk = floats(context.work.stage(layout.SCORE).read(chunk.unit, ["score"])["score"])
            scores[first:last] = np.nan_to_num(of_chunk[positions[first:last] - chunk.start])
    return scores


class Answers:
    """The one answer of each model to some rows, out of the stages of their shards: a source to measure."""

    def __init__(self, positions: Positions, stages: Mapping[Side, Sequence[Stage]]) -> None:
        self._positions, self._stages = positions, stages

    def responses(self, span: Span) -> Mapping[Side, list[Responses]]:
        """An entry a row from `span.start` up to `span.stop` of the positions."""
        positions = self._positions[span.start : span.stop]
        return {side: self._of(stages, positions) for side, stages in self._stages.items()}

    @staticmethod
    def _of(stages: Sequence[Stage], positions: Positions) -> list[Responses]:
        found: dict[int, Responses] = {}
        for stage in stages:
            found |= {row["position"]: _response(row) for row in _rows(stage, positions).to_pylist()}
        return [found[position] for position in positions.tolist()]


def _response(row: Mapping[str, str | None]) -> Responses:
    kind = row["error_type"]
    # An answer that failed is none, also where there is a text.
    return ([row["response"]], None) if kind is None else ([None], (kind, row["error"] or ""))


def _rows(stage: Stage, positions: Positions) -> pa.Table:
    """The answers of those of `positions` that are in the stage, each of its pieces read once."""
    pieces = [piece for piece in stage.receipts().values() if piece.rows]
    firsts = np.array([piece.first for piece in pieces], np.int64)
    columns, wanted = ["position", "response", "error_type", "error"], pa.array(positions)
    numbers = np.unique(np.searchsorted(firsts, positions, side="right") - 1)
    tables = [stage.read(pieces[number].unit, columns) for number in numbers.tolist() if number >= 0]
    empty = pa.schema(
        [("position", pa.int64()), ("response", pa.large_string()), ("error_type", pa.string()), ("error", pa.string())]
    ).empty_table()
    return pa.concat_tables([empty, *(table.filter(pc.is_in(table["position"], wanted)) for table in tables)])
