"""Deferral: once the small model has answered, the policy decides which answers stay; the other rows are deferred.

The deferred rows become a shard of the large model.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from pydantic import BaseModel, ConfigDict

from batchroute.costs.prices import pico
from batchroute.errors import InputError
from batchroute.pipeline import layout
from batchroute.pipeline.confidences import put_confidences
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.background import Background
from batchroute.pipeline.shards.copies import NO_COPIES, Copies, find_copies
from batchroute.pipeline.shards.names import shard_stage
from batchroute.pipeline.shards.writer import ShardWriter
from batchroute.pipeline.stages.confidence import NOTHING_TOLD, Told, read_told
from batchroute.pipeline.stages.decide import decided, overspent, read_decision
from batchroute.pipeline.stages.drift import drift_of
from batchroute.pipeline.stages.partition import read_partition
from batchroute.pipeline.stages.read import reader_usage
from batchroute.pipeline.stages.scores import stored
from batchroute.pipeline.tonight.basis import Basis, Mask, spent_on_calibration, taken_rows
from batchroute.policy.decision import Decided
from batchroute.storage.workdir import Workdir
from batchroute.words import plural


class Deferral(BaseModel):
    """The deferred rows; the file is written when the whole shard is.

    Attributes:
        decided: the decision, for all rows or by group.
        rows, copies, units: of the shard.
        no_answer: rows of it that the small model did not answer.
        spent_pico: cost of the small model's answers to rows of the shard, in pico-dollars.
    """

    model_config = ConfigDict(frozen=True)

    decided: list[Decided]
    rows: int
    copies: int
    units: int
    no_answer: int
    spent_pico: int


def read_deferral(work: Workdir) -> Deferral | None:
    """None until the stage is done, and in a run whose policy decided before."""
    tree = work.read_json(layout.DEFERRAL)
    return None if tree is None else Deferral.model_validate(tree)


def decided_of(work: Workdir) -> list[Decided]:
    """The decision on a run's rows, before or after the small model answered."""
    assigned, deferral = read_partition(work), read_deferral(work)
    assert assigned is not None
    return assigned.decided if deferral is None else deferral.decided


def defer(context: Context) -> Deferral | None:
    """Decide, and write the deferred shard. All pieces of the small shard must be answered. Deterministic.

    None if the policy has decided before.

    Raises:
        InputError: the small model's answers tell nothing.
    """
    work = context.work
    earlier, assigned = read_deferral(work), read_partition(work)
    assert assigned is not None
    if earlier is not None or assigned.decided:
        return earlier
    told, small = _decide(context)
    deferred = told.asked & ~small & ~told.gone_on
    writer = _write_shard(context, deferred, _copies(context, told, deferred))
    paid = 0 if told.paid is None else int(told.paid[deferred].sum())
    record = read_decision(work)
    assert record is not None
    result = Deferral(
        decided=record.decided,
        rows=writer.rows,
        copies=len(writer.copies.copies),
        units=writer.units,
        no_answer=int((deferred & np.isnan(told.confidence)).sum()),
        spent_pico=paid,
    )
    work.put_json(layout.DEFERRAL, result.model_dump(mode="json"))
    kept = int(small.sum())
    context.engine.progress.note(
        "defer",
        f"{plural(result.rows, 'row')} deferred to the large model, {kept:,} keep the small model's answer: "
        f"{record.expected.policy}",
        rows=result.rows,
        kept=kept,
    )
    for line in overspent(result.decided):
        context.engine.progress.note("defer", line)
    return result


def _decide(context: Context) -> tuple[Told, Mask]:
    """What the answers tell, and which rows keep theirs."""
    scored, (basis, model) = stored(context), Basis.after(context)
    told = read_told(context, model, scored.scores)
    confidence, taken = told.confidence.copy(), taken_rows(context)
    confidence[told.gone_on | taken] = np.nan
    if told.answered and not told.tells:
        raise InputError(NOTHING_TOLD)
    scored = dataclasses.replace(scored, scores=confidence, spent=scored.spent + _spent(context))
    drift, on_drift = drift_of(context)
    with Background() as background:
        background.do(lambda: put_confidences(context, told.confidence))
        decision, record = decided(context, scored, basis, taken, drift, on_drift, told.paid)
    # After the confidences: what a crash leaves is a beginning of all puts.
    record.put(context.work)
    return told, decision.small


def _spent(context: Context) -> int:
    """Pico-dollars that no single row was paid for: tonight's calibration, reading, and the time of loading a model."""
    reader = reader_usage(context)
    read = 0 if reader is None or reader.cost is None else pico(reader.cost)
    price, loading = context.snapshot.price("small"), 0
    if price is not None and not price.by_token:
        receipts = context.work.stage("small").receipts().values()
        loading = price.of_seconds(sum(receipt.load_seconds for receipt in receipts))
    return loading + read + spent_on_calibration(context)


def _copies(context: Context, told: Told, deferred: Mask) -> Copies:
    """The copies among the deferred rows. A small model that samples has answered each of them by itself."""
    models = context.job.models
    if not models.large.generation.greedy or not deferred.any():
        return NO_COPIES
    if models.small.generation.greedy:
        return told.copies.among(deferred)
    return find_copies(context.work.stage(layout.SCORE), context.snapshot.chunks(), ~deferred, ["large"])["large"]


def _write_shard(context: Context, deferred: Mask, copies: Copies) -> ShardWriter:
    """The rows of the small shard that are deferred. Each of its pieces that holds some is read once."""
    work, frozen = context.work, context.snapshot
    shard = shard_stage(work, "small")
    units = [unit for unit, piece in shard.receipts().items() if deferred[piece.first : piece.last + 1].any()]
    with Background() as background:
        writer = ShardWriter(work, frozen, "deferred", copies, background)
        for rows in shard.tables(units, ["position", "tokens", "prompt"]):
            context.engine.check()
            positions = rows["position"].to_numpy()
            which = np.flatnonzero(deferred[positions])
            writer.add(rows, rows["prompt"], which[np.argsort(positions[which])])
        writer.close()
    return writer
