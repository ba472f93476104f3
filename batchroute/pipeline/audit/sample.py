"""The audit: some rows of the small model go to the large one too, and a metric tells what quality was lost.

Its rows are dealt out as a shard of their own, once the small model has answered; they are in no output. When the large
model has answered, both answers are measured, and for the mean that the drop is relative to also those of as many rows
of the large model.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from batchroute import models, quality
from batchroute.config.job import Job
from batchroute.engines.base import Pool
from batchroute.errors import InputError
from batchroute.pipeline import layout
from batchroute.pipeline.audit import rows as audit_rows
from batchroute.pipeline.audit.rows import OF_LARGE, Answers, Positions
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.copies import NO_COPIES
from batchroute.pipeline.shards.writer import ShardWriter, shard_stage
from batchroute.quality import drop
from batchroute.quality.audit import AuditSpec
from batchroute.quality.base import Item, MetricSpec
from batchroute.quality.measuring.measurer import Answered, Measurer
from batchroute.quality.measuring.responses import Rows
from batchroute.router.notes import CALIBRATION_FILE, ROUTER_FILE, read_json
from batchroute.storage.units import Span, spans
from batchroute.storage.workdir import Workdir
from batchroute.tables.parquet import PickedTable, PromptTable

# Two responses each: a crash repeats no more ratings of a judge than that.
_ROWS_A_UNIT = 128
_LEAST_ROWS = 2


class Stratum(BaseModel):
    """Rows of the small model with scores up to one, the last of them at a position."""

    model_config = ConfigDict(frozen=True)

    rows: int
    drawn: int
    score: float
    position: int


class AuditPlan(BaseModel):
    """What an audit takes: fixed before its shard is dealt out, whatever the job file says later.

    Attributes:
        metric: as `quality.describe` has it.
        reference: the input column.
        strata: by score, from the lowest.
        large: rows that the large model is asked for the output, copies aside; as many as were drawn are measured.
        unit_rows: of a unit of the shard.
    """

    model_config = ConfigDict(frozen=True)

    share: Decimal
    seed: int
    metric: str
    reference: str | None
    strata: list[Stratum]
    large: int
    unit_rows: int

    @property
    def drawn(self) -> int:
        return sum(stratum.drawn for stratum in self.strata)

    @property
    def of(self) -> int:
        return sum(stratum.rows for stratum in self.strata)

    @property
    def units(self) -> int:
        """Of the shard."""
        return -(-self.drawn // self.unit_rows)

    def spans(self) -> tuple[list[Span], list[Span]]:
        """The units of measuring: of the audited rows, and of the large model's, which are counted on from there."""
        size = min(self.unit_rows, _ROWS_A_UNIT)
        audited = spans(self.drawn, size)
        of_large = [
            Span(f"{len(audited) + number:05d}", self.drawn + span.start, self.drawn + span.stop)
            for number, span in enumerate(spans(min(self.large, self.drawn), size))
        ]
        return audited, of_large


def read_audit_plan(work: Workdir) -> AuditPlan | None:
    """None until the audit of a run begins."""
    found = work.read_json(layout.AUDIT)
    return None if found is None else AuditPlan.model_validate(found)


def check(job: Job, table: PromptTable) -> None:
    """Raises:
    InputError: an audit is asked for, and its metric is not known or its reference missing.
    """
    if job.report.audit is not None:
        _reference(job.report.audit, metric_of(job), table)


def check_metric(context: Context) -> None:
    """Measure a sentence before any model is asked: hours of generation must not end at a metric that cannot work.

    Raises:
        InputError: as `quality.load`, or as the metric does.
    """
    if context.job.report.audit is None or context.work.stage("small").receipts():
        return
    metric = quality.load(metric_of(context.job), lambda: context.engine.device)
    try:
        metric.measure([Item("What is 2 + 2?", "4", "4")])
    finally:
        metric.close()


def deal(context: Context) -> AuditPlan | None:
    """Draw the audited rows and deal them out, once all pieces of the small shard are answered; None without an audit.

    Every attempt draws the same rows. Costs 20 bytes of memory for each row of the small model.
    """
    plan = read_audit_plan(context.work)
    asked = plan or context.job.report.audit
    if asked is None:
        return None
    if plan is not None and len(shard_stage(context.work, "audited").receipts()) == plan.units:
        return plan
    positions = audit_rows.small_alone(context)
    scores = audit_rows.scores_of(context, positions)
    rows = max(_LEAST_ROWS, int((asked.share * len(positions)).to_integral_value(ROUND_HALF_UP)))
    generator = _generator(asked.seed, context.work.run_id, "audited")
    drawn = drop.draw(scores, min(rows, len(positions)), generator)
    if isinstance(asked, AuditSpec):
        strata = [
            Stratum(rows=d.rows, drawn=len(d.indices), score=float(scores[d.last]), position=int(positions[d.last]))
            for d in drawn
        ]
        plan = _begin(context, asked, strata)
    indices = np.concatenate([np.empty(0, np.intp), *(d.indices for d in drawn)])
    _deal_out(context, np.sort(positions[indices]))
    return plan


def _begin(context: Context, asked: AuditSpec, strata: list[Stratum]) -> AuditPlan:
    """Fix what the audit takes, before anything is dealt out."""
    metric = metric_of(context.job)
    plan = AuditPlan(
        share=asked.share,
        seed=asked.seed,
        metric=quality.describe(metric),
        reference=_reference(asked, metric, context.table),
        strata=strata,
        large=len(audit_rows.dealt_to(context, OF_LARGE)),
        unit_rows=context.snapshot.unit_rows,
    )
    context.work.put_json(layout.AUDIT, plan.model_dump(mode="json"))
    context.engine.progress.note(
        layout.MEASURED,
        f"{plan.drawn:,} of {plan.of:,} rows that the small model answered go to the large one too, to be compared "
        f"by {plan.metric}",
        rows=plan.drawn,
    )
    return plan


def _deal_out(context: Context, positions: Positions) -> None:
    shard = shard_stage(context.work, "small")
    writer = ShardWriter(context, "audited", NO_COPIES)
    for unit, piece in shard.receipts().items():
        first, last = np.searchsorted(positions, [piece.first, piece.last + 1])
        if first < last:
            asked = shard.read(unit, ["position", "tokens", "prompt"]).sort_by("position")
            writer.add(asked, asked["prompt"], np.flatnonzero(np.isin(asked["position"].to_numpy(), positions)))
    writer.close()


def measure(context: Context) -> None:
    """Measure all units of the audit that have not been yet. A job whose report asks for no audit any more has none.

    Raises:
        InputError: the metric cannot be used.
        StoppedError: it failed on all responses of a unit.
    """
    plan = read_audit_plan(context.work)
    if plan is None or context.job.report.audit is None:
        return
    audited, of_large = plan.spans()
    # An endpoint that judges allows so many requests in all.
    pool: Pool | None = None if _fixed_metric(context.job, plan).name == "judge" else "router"
    with context.engine.workers(context, _measurer, pool) as workers:
        workers.run(layout.MEASURED, [*audited, *of_large])


def _measurer(context: Context) -> Measurer:
    plan = read_audit_plan(context.work)
    assert plan is not None
    spec = _fixed_metric(context.job, plan)
    of_both, of_the_large = audited_rows(context, plan), _of_large(context, plan)

    def rows(span: Span) -> list[Answered]:
        if span.start < plan.drawn:
            return of_both(span)
        return of_the_large(Span(span.unit, span.start - plan.drawn, span.stop - plan.drawn))

    context.engine.progress.note("load", f"loading the metric {plan.metric}")
    return Measurer(quality.load(spec, lambda: context.engine.device), rows, context.work.stage(layout.MEASURED))


def audited_rows(context: Context, plan: AuditPlan) -> Rows:
    """The audited rows with both models' answers, in the order of their positions."""
    work, positions = context.work, audit_rows.dealt_to(context, ["audited"])
    answers = Answers(positions, {"small": [work.stage("small")], "large": [work.stage("audited")]})
    return _rows(context, plan, positions, answers)


def _of_large(context: Context, plan: AuditPlan) -> Rows:
    """The rows of the large model that are measured, with its answers alone."""
    positions = audit_rows.dealt_to(context, OF_LARGE)
    generator = _generator(plan.seed, context.work.run_id, "large")
    positions = np.sort(generator.choice(positions, min(len(positions), plan.drawn), replace=False))
    answers = Answers(positions, {"large": [context.work.stage(shard) for shard in OF_LARGE]})
    return _rows(context, plan, positions, answers)


def _rows(context: Context, plan: AuditPlan, positions: Positions, answers: Answers) -> Rows:
    table = PickedTable.of(context.table, positions)
    needs = quality.needs_reference(_fixed_metric(context.job, plan))
    return Rows(table, context.job.input.prompt, context.snapshot.prompt_kind, plan.reference, answers, needs)


def metric_of(job: Job) -> MetricSpec:
    """The metric that the job names, or else the router's own.

    Raises:
        InputError: the router's is not known, or is a judge, whose endpoint is in none of its notes.
    """
    assert job.report.audit is not None
    if job.report.audit.metric is not None:
        return job.report.audit.metric
    folder = Path(models.resolve(job.router.model))
    notes = [read_json(folder / file) or {} for file in (CALIBRATION_FILE, ROUTER_FILE)]
    known = next((note["metric"] for note in notes if note.get("metric")), None)
    found = None if known is None else quality.named(known)
    if found is None:
        why = "does not say by which metric it was trained" if known is None else f"was trained by {known}"
        raise InputError(
            f"report.audit: the router '{job.router.model}' {why}: name the audit's metric as report.audit.metric, for "
            "example {name: rouge}"
        )
    return found


def _fixed_metric(job: Job, plan: AuditPlan) -> MetricSpec:
    """The metric that the audit was begun with; the job adds what is not fixed, such as a judge's endpoint.

    Raises:
        InputError: only the job can name it, and it names another one.
    """
    mine = metric_of(job)
    found = mine if quality.describe(mine) == plan.metric else quality.named(plan.metric)
    if found is None:
        raise InputError(
            f"report.audit.metric is {quality.describe(mine)}, but this run's audit was begun with {plan.metric}: set "
            "it back, or leave report.audit out"
        )
    return found


def _reference(spec: AuditSpec, metric: MetricSpec, table: PromptTable) -> str | None:
    """The column with the references; None where the metric needs none and there is none.

    Raises:
        InputError: it is needed and not there, or holds no text.
    """
    column = spec.reference or ("reference" if "reference" in table.schema.names else None)
    if column is not None:
        table.check_groupable(column, "report.audit.reference")
    elif quality.needs_reference(metric):
        raise InputError(
            f"report.audit: the metric {metric.name} needs a reference: name its column as report.audit.reference; the "
            f"input has {', '.join(table.schema.names)}"
        )
    return column


def _generator(seed: int, run_id: str, what: str) -> np.random.Generator:
    """The same for every attempt of a run, and another for each run."""
    return np.random.default_rng([seed, *run_id.encode(), *what.encode()])
