"""Confidence: what the small model's answers tell of themselves, as one number a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchroute.confidence.model import UNFITTED, ConfidenceModel, unfitted
from batchroute.confidence.signals import Signals
from batchroute.costs.columns import picos_of
from batchroute.pipeline.audit.rows import Positions, shard_positions
from batchroute.pipeline.context import Context
from batchroute.pipeline.recorded import recorded_signals
from batchroute.pipeline.shards.answers import model_of, schema_of
from batchroute.pipeline.shards.copies import Copies
from batchroute.pipeline.shards.names import Shard
from batchroute.pipeline.stages.read import is_read, readings_of, with_readings
from batchroute.policy.settings import Scores

_SIGNALS = ("logprob", "logprob_low", "agreement")
_COLUMNS = ("position", "copy_of", "error_type", "cost", *_SIGNALS)
_FITTED_COLUMNS = (*_COLUMNS, "finish_reason", "output_tokens")
"""A fitted model also reads how long an answer is, and how it ended."""
_ANSWERED: tuple[Shard, ...] = ("small", "calibration_small")

NOTHING_TOLD = (
    "policy.decide: the small model's answers tell nothing: they came without log-probabilities, and no samples were "
    "taken; set samples or a reader in models.small.confidence, or policy.calibrate.reader, or decide before, and "
    "start again with --fresh"
)

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Told:
    """What the answers of a run's small model tell; arrays of shape [rows], by position.

    Attributes:
        asked: rows of the small shard.
        confidence: NaN for a row without an answer, and for one whose answer has no signals.
        answered: number of rows that the small model answered itself.
        tells: whether any answer has a signal besides its length and its end.
        copies: rows of the small shard that share the answer of another.
        gone_on: rows that `escalate` sent to the large model, and copies of such rows, which share its answer.
        paid: cost of the answers in pico-dollars; None if the model has no price.
    """

    asked: Mask
    confidence: Scores
    answered: int
    tells: bool
    copies: Copies
    gone_on: Mask
    paid: NDArray[np.int64] | None


def read_told(context: Context, model: ConfidenceModel | None, scores: Scores) -> Told:
    """Read the answers of the small model unit by unit: 14 bytes of memory a row, and more without a model.

    Args:
        model: makes confidences of signals. None: one signal alone, see `unfitted`.
        scores: the router's, NaN where there is none; a signal of the model.
    """
    rows = context.snapshot.rows
    confidence = np.full(rows, np.nan, np.float32)
    alone = [name for name in UNFITTED if name != "reading" or is_read(context, "small")]
    raw = None if model is not None else {name: confidence.copy() for name in alone}
    paid = None if context.snapshot.price("small") is None else np.zeros(rows, np.int64)
    answers, tells = 0, False
    recorded = recorded_signals(context)
    asked, gone_on = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    copies, originals = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    columns = _columns(context, _COLUMNS if model is None else _FITTED_COLUMNS)
    for shard in _ANSWERED:
        stage = context.work.stage(shard)
        units, readings = list(stage.receipts()), readings_of(context, shard)
        for unit, read in zip(units, stage.tables(units, columns), strict=True):
            table = with_readings(readings, unit, read)
            positions = table["position"].to_numpy()
            asked[positions] = shard == "small"
            if paid is not None:
                paid[positions] = picos_of(table["cost"])
            copied = table["copy_of"].is_valid()
            copies.append(table["position"].filter(copied).to_numpy())
            originals.append(table["copy_of"].filter(copied).to_numpy())
            own = pc.and_(pc.invert(copied), table["error_type"].is_null())
            answered = table if pc.all(own, min_count=0).as_py() else table.filter(own)
            at = answered["position"].to_numpy()
            signals = signals_of(answered, scores[at], {name: values[at] for name, values in recorded.items()})
            answers, tells = answers + len(at), tells or signals.tells
            if model is not None:
                confidence[at] = model.apply(signals)
            else:
                assert raw is not None
                for name, values in raw.items():
                    values[at] = getattr(signals, name)
    copy, original = np.concatenate(copies), np.concatenate(originals)
    in_order = np.argsort(copy)
    shared = Copies(copy[in_order], original[in_order])
    if raw is not None:
        for values in raw.values():
            values[copy] = values[original]
        nothing = np.broadcast_to(np.float64(np.nan), (rows,))
        known = {name: raw[name].astype(np.float64) if name in raw else nothing for name in UNFITTED}
        low, agreement, reading = (known[name] for name in ("logprob_low", "agreement", "reading"))
        confidence = unfitted(Signals(nothing, low, agreement, nothing, nothing, nothing, reading))
    else:
        confidence[copy] = confidence[original]
    gone_on[shard_positions(context, ["escalated"])] = True
    gone_on[copy] = gone_on[original]
    return Told(asked, confidence, answers, tells, shared, gone_on, paid)


def signals_at(context: Context, positions: Positions, scores: Scores) -> tuple[Signals, Mask]:
    """The signals of the rows of tonight's calibration, and which of them the small model answered.

    Args:
        positions: of all rows of the shard, ascending.
        scores: of these rows.
    """
    stage, readings = context.work.stage("calibration_small"), readings_of(context, "calibration_small")
    columns = _columns(context, _FITTED_COLUMNS)
    tables = [with_readings(readings, unit, stage.read(unit, columns)) for unit in stage.receipts()]
    table = pa.concat_tables(tables).sort_by("position")
    assert np.array_equal(table["position"].to_numpy(), positions)
    recorded = {name: values[positions] for name, values in recorded_signals(context).items()}
    return signals_of(table, scores, recorded), table["error_type"].is_null().to_numpy()


def signals_of(answers: pa.Table, scores: Scores, recorded: Mapping[str, Scores]) -> Signals:
    """Args:
    answers: as the small model's units hold them.
    scores: the router's, of the same rows.
    recorded: by column of the input, of the same rows.
    """
    there = answers.column_names
    told = {name: _floats(answers[name]) for name in (*_SIGNALS, "reading") if name in there}
    if "finish_reason" in there:
        ends = pc.fill_null(pc.equal(answers["finish_reason"], "length"), False)
        told |= {"cut": ends.to_numpy().astype(np.float64), "tokens": _floats(answers["output_tokens"])}
    return Signals.of(answers.num_rows, recorded, **told, score=scores.astype(np.float64))


def _columns(context: Context, wanted: Sequence[str]) -> list[str]:
    """Units of a model that is asked for no signals lack their columns."""
    there = schema_of(model_of(context.job, "small")).names
    return [name for name in wanted if name in there]


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """NaN for null."""
    floats: NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    return floats
