"""The audit's measuring: both answers to each audited row, and the large model's answers to rows of its own.

The drop is relative to the large model's mean quality over all rows, so as many of its own rows are measured as were
audited.
"""

from __future__ import annotations

import numpy as np

from batchroute import quality
from batchroute.engines.base import Pool
from batchroute.pipeline import layout
from batchroute.pipeline.audit.metric import planned_metric
from batchroute.pipeline.audit.plan import AuditPlan, read_audit_plan
from batchroute.pipeline.audit.rows import OF_LARGE, AuditAnswers, Positions, shard_positions
from batchroute.pipeline.audit.sample import random_generator
from batchroute.pipeline.context import Context
from batchroute.quality.measuring.measurer import AnsweredRow, Measurer
from batchroute.quality.measuring.responses import AnsweredRows
from batchroute.storage.units import Span
from batchroute.tables.parquet import PickedTable


def measure_audit(context: Context) -> None:
    """Measure all units of the audit that have no receipt. Does nothing if the job's report asks for no audit any more.

    Raises:
        InputError: the metric cannot be used.
        StoppedError: the metric failed on all responses of a unit.
    """
    plan = read_audit_plan(context.work)
    if plan is None or context.job.report.audit is None:
        return
    audited, of_large = plan.spans()
    # Concurrency is limited per process: several processes would exceed what the endpoint allows.
    pool: Pool | None = None if planned_metric(context.job, plan).record.behind_api else "router"
    with context.engine.workers(context, _measurer, pool) as workers:
        workers.run(layout.MEASURED, [*audited, *of_large])


def _measurer(context: Context) -> Measurer:
    plan = read_audit_plan(context.work)
    assert plan is not None
    audited, of_large = audited_rows(context, plan), _rows_of_large(context, plan)

    def rows(span: Span) -> list[AnsweredRow]:
        if span.start < plan.drawn:
            return audited(span)
        return of_large(Span(span.unit, span.start - plan.drawn, span.stop - plan.drawn))

    context.engine.progress.note("load", f"loading the metric {plan.metric}")
    metric = quality.load(planned_metric(context.job, plan), lambda: context.engine.device)
    return Measurer(metric, rows, context.work.stage(layout.MEASURED))


def audited_rows(context: Context, plan: AuditPlan) -> AnsweredRows:
    """The audited rows with both models' answers, in the order of their positions."""
    work, positions = context.work, shard_positions(context, ["audited"])
    answers = AuditAnswers(positions, {"small": [work.stage("small")], "large": [work.stage("audited")]})
    return _rows(context, plan, positions, answers)


def _rows_of_large(context: Context, plan: AuditPlan) -> AnsweredRows:
    """A sample of the rows that the large model answered for the output, with its answers alone."""
    positions = shard_positions(context, OF_LARGE)
    generator = random_generator(plan.seed, context, "large")
    positions = np.sort(generator.choice(positions, min(len(positions), plan.drawn), replace=False))
    answers = AuditAnswers(positions, {"large": [context.work.stage(shard) for shard in OF_LARGE]})
    return _rows(context, plan, positions, answers)


def _rows(context: Context, plan: AuditPlan, positions: Positions, answers: AuditAnswers) -> AnsweredRows:
    table = PickedTable.of(context.table, positions)
    needs_reference = planned_metric(context.job, plan).record.needs_reference
    reference = None if plan.by_likeness else plan.reference
    return AnsweredRows(table, context.prompts, reference, answers, needs_reference, plan.by_likeness)
