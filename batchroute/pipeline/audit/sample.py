"""The audited rows: a sample of the small model's rows, written as a shard that the large model answers too.

It is drawn once the small model has answered. No audited answer is in the output.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP

import numpy as np

from batchroute import quality
from batchroute.pipeline import layout
from batchroute.pipeline.audit.metric import metric_of, reference_column
from batchroute.pipeline.audit.plan import AuditPlan, Stratum, read_audit_plan
from batchroute.pipeline.audit.rows import OF_LARGE, Positions, shard_positions, small_alone, strata_scores
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.copies import NO_COPIES
from batchroute.pipeline.shards.names import shard_stage
from batchroute.pipeline.shards.writer import ShardWriter
from batchroute.quality import drop
from batchroute.quality.audit import AuditSpec

_LEAST_ROWS = 2


def draw_audit(context: Context) -> AuditPlan | None:
    """Draw the audited rows and write their shard; None without an audit. The small shard must be answered.

    A resumed run draws the same rows. Needs 20 bytes of memory for each row of the small model.
    """
    plan = read_audit_plan(context.work)
    settings = plan or context.job.report.audit
    if settings is None:
        return None
    if plan is not None and len(shard_stage(context.work, "audited").receipts()) == plan.units:
        return plan
    positions = small_alone(context)
    scores = strata_scores(context, positions)
    rows = max(_LEAST_ROWS, int((settings.share * len(positions)).to_integral_value(ROUND_HALF_UP)))
    drawn = drop.draw(scores, min(rows, len(positions)), random_generator(settings.seed, context, "audited"))
    if isinstance(settings, AuditSpec):
        strata = [
            Stratum(rows=d.rows, drawn=len(d.indices), score=float(scores[d.last]), position=int(positions[d.last]))
            for d in drawn
        ]
        plan = _begin(context, settings, strata)
    indices = np.concatenate([np.empty(0, np.intp), *(d.indices for d in drawn)])
    _write_shard(context, np.sort(positions[indices]))
    return plan


def _begin(context: Context, settings: AuditSpec, strata: list[Stratum]) -> AuditPlan:
    """Store the plan, before any row of the shard is written."""
    metric = metric_of(context.job)
    plan = AuditPlan(
        share=settings.share,
        seed=settings.seed,
        metric=quality.describe(metric),
        reference=reference_column(settings, metric, context.table),
        strata=strata,
        large=len(shard_positions(context, OF_LARGE)),
        unit_rows=context.snapshot.unit_rows,
    )
    context.work.put_json(layout.AUDIT, plan.model_dump(mode="json"))
    context.engine.progress.note(
        layout.MEASURED,
        f"{plan.drawn:,} of {plan.of:,} rows that the small model answered go to the large one too, to be compared "
        f"by {plan.words}",
        rows=plan.drawn,
    )
    return plan


def _write_shard(context: Context, positions: Positions) -> None:
    small = shard_stage(context.work, "small")
    writer = ShardWriter(context.work, context.snapshot, "audited", NO_COPIES)
    for unit, piece in small.receipts().items():
        first, last = np.searchsorted(positions, [piece.first, piece.last + 1])
        if first < last:
            rows = small.read(unit, ["position", "tokens", "prompt"]).sort_by("position")
            writer.add(rows, rows["prompt"], np.flatnonzero(np.isin(rows["position"].to_numpy(), positions)))
    writer.close()


def random_generator(seed: int, context: Context, purpose: str) -> np.random.Generator:
    """The same for every attempt of a run, and different for each run."""
    return np.random.default_rng([seed, *context.work.run_id.encode(), *purpose.encode()])
