"""Rows of an audit by their positions in the snapshot: which rows, their scores, and the models' answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchroute.fields import Side
from batchroute.pipeline import layout
from batchroute.pipeline.confidences import Confidences
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.names import Shard, shard_stage
from batchroute.pipeline.stages.scores import values_at
from batchroute.quality.measuring.responses import Responses
from batchroute.storage.units import Span, Stage

Positions = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

OF_LARGE: tuple[Shard, ...] = ("large", "escalated", "deferred", "calibration_large")
"""The shards that the large model answers for the output."""


def small_alone(context: Context) -> Positions:
    """Rows that the small model alone answered, without copies; ascending, 8 bytes per row."""
    stage = context.work.stage("small")
    positions = [np.empty(0, np.int64)]
    for unit in stage.receipts():
        rows = stage.read(unit, ["position", "copy_of", "error_type"])
        answered = pc.and_(rows["copy_of"].is_null(), rows["error_type"].is_null())
        positions.append(rows["position"].filter(answered).to_numpy())
    answered_rows = np.concatenate(positions)
    return answered_rows[~np.isin(answered_rows, gone_on(context))]


def gone_on(context: Context) -> Positions:
    """The rows of the small shard that the large model answered too; ascending."""
    positions = [np.empty(0, np.int64)]
    for shard in ("escalated", "deferred"):
        stage = shard_stage(context.work, shard)
        positions += [stage.read(unit, ["position"])["position"].to_numpy() for unit in stage.receipts()]
    return np.sort(np.concatenate(positions))


def shard_positions(context: Context, shards: Sequence[Shard]) -> Positions:
    """The rows of the shards, without copies; ascending."""
    positions = [np.empty(0, np.int64)]
    for stage in (shard_stage(context.work, shard) for shard in shards):
        for unit in stage.receipts():
            rows = stage.read(unit, ["position", "copy_of"])
            positions.append(rows["position"].filter(rows["copy_of"].is_null()).to_numpy())
    return np.sort(np.concatenate(positions))


def strata_scores(context: Context, positions: Positions) -> Scores:
    """What the strata of an audit are made by: confidences where they have decided, else the router's scores."""
    confidences = Confidences(context.work)
    return confidences.at(positions) if confidences else scores_of(context, positions)


def scores_of(context: Context, positions: Positions, without: float = 0.0) -> Scores:
    """The scores of the rows; `without` for a row without one. Chunks that hold none of the rows are not read."""
    stage = context.work.stage(layout.SCORE)
    return values_at(
        context.snapshot.chunks(), positions, lambda chunk: stage.read(chunk.unit, ["score"])["score"], without
    )


class AuditAnswers:
    """One answer of each model to each of `positions`, from the stages of its shards: a `ResponseSource`."""

    def __init__(self, positions: Positions, stages: Mapping[Side, Sequence[Stage]]) -> None:
        self._positions, self._stages = positions, stages

    def responses(self, span: Span) -> Mapping[Side, list[Responses]]:
        """`span` counts the audit's rows: it is a slice of `positions`."""
        positions = self._positions[span.start : span.stop]
        return {side: _responses(stages, positions) for side, stages in self._stages.items()}


def _responses(stages: Sequence[Stage], positions: Positions) -> list[Responses]:
    by_position: dict[int, Responses] = {}
    for stage in stages:
        by_position |= {row["position"]: _response(row) for row in _answers(stage, positions).to_pylist()}
    return [by_position[position] for position in positions.tolist()]


def _response(row: Mapping[str, str | None]) -> Responses:
    kind = row["error_type"]
    # A failed answer may have a text, which counts for nothing.
    return ([row["response"]], None) if kind is None else ([None], (kind, row["error"] or ""))


def _answers(stage: Stage, positions: Positions) -> pa.Table:
    """The stage's answers to rows in `positions`. Only the pieces that hold such rows are read, each once."""
    pieces = [piece for piece in stage.receipts().values() if piece.rows]
    firsts = np.array([piece.first for piece in pieces], np.int64)
    columns, wanted = ["position", "response", "error_type", "error"], pa.array(positions)
    numbers = np.unique(np.searchsorted(firsts, positions, side="right") - 1)
    tables = [stage.read(pieces[number].unit, columns) for number in numbers.tolist() if number >= 0]
    empty = pa.schema(
        [("position", pa.int64()), ("response", pa.large_string()), ("error_type", pa.string()), ("error", pa.string())]
    ).empty_table()
    return pa.concat_tables([empty, *(table.filter(pc.is_in(table["position"], wanted)) for table in tables)])
