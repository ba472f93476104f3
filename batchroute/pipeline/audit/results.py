"""What an audit found: the night's real quality drop, and its rows as a quality table."""

from __future__ import annotations

import bisect
import json
from collections import Counter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchroute.costs.usage import model_usage
from batchroute.fields import SIDES
from batchroute.pipeline import layout
from batchroute.pipeline.audit import rows as audit_rows
from batchroute.pipeline.audit.rows import OF_LARGE, Positions, Scores
from batchroute.pipeline.audit.sample import AuditPlan, audited_rows, read_audit_plan
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.writer import shard_stage
from batchroute.quality import drop
from batchroute.quality.audit import Audit
from batchroute.quality.measuring import columns as collect
from batchroute.quality.measuring.measurer import SCHEMA
from batchroute.storage.units import Span
from batchroute.storage.workdir import Workdir
from batchroute.tables.parquet import PickedTable


def read_audit(context: Context) -> Audit | None:
    """What the audit found, from its units alone; None where the job asks for none, or it is not complete."""
    plan = _complete(context)
    if plan is None:
        return None
    work, (audited, of_large) = context.work, plan.spans()
    measured, of_the_large = _measured(work, audited), _measured(work, of_large)
    positions = audit_rows.dealt_to(context, ["audited"])
    strata = _strata(plan, positions, audit_rows.scores_of(context, positions), measured)
    baseline = _qualities(of_the_large, "large")
    found = drop.estimate(strata, baseline[~np.isnan(baseline)], _answered_by_large(work))
    model, price = context.job.models.large.model, context.snapshot.price("large")
    shard, answered = (stage.receipts().values() for stage in (shard_stage(work, "audited"), work.stage("audited")))
    failures = Counter(kind for kind in measured["error_type"].to_pylist() if kind is not None)
    return Audit(
        metric=plan.metric,
        share=plan.share,
        seed=plan.seed,
        rows=plan.drawn,
        of=plan.of,
        measured=plan.drawn - failures.total(),
        large_rows=int((~np.isnan(baseline)).sum()),
        small_quality=found.small,
        large_quality=found.large,
        drop=found.drop,
        low=found.low,
        high=found.high,
        as_good=found.as_good,
        cost=model_usage(model, price, shard, answered).cost,
        failures=dict(sorted(failures.items())),
    )


def audit_table(context: Context) -> pa.Table | None:
    """The audited rows with both answers and both qualities: a quality table, and recorded responses for `label`.

    None as for `read_audit`. Memory holds all of them.
    """
    plan = _complete(context)
    if plan is None:
        return None
    positions = audit_rows.dealt_to(context, ["audited"])
    rows = audited_rows(context, plan)(Span("", 0, len(positions)))
    picked = PickedTable.of(context.table, positions)
    table = collect.input_columns(picked, rows, context.job.input.id)
    table = table.append_column("score", pa.array(audit_rows.scores_of(context, positions)))
    table = collect.with_responses(table, rows)
    if plan.reference is None:
        table = table.drop_columns("reference")
    table = collect.with_qualities(table, _measured(context.work, plan.spans()[0]))
    return table.replace_schema_metadata(_metadata(context, plan))


def _metadata(context: Context, plan: AuditPlan) -> dict[str, str]:
    """As `label` has it."""
    models = {side: context.job.models.of(side) for side in SIDES}
    sampling = {
        "samples": 1,
        "temperature": {side: model.generation.temperature for side, model in models.items()},
        "max_new_tokens": {side: model.generation.max_new_tokens for side, model in models.items()},
    }
    names = {f"{side}_model": model.model for side, model in models.items()}
    return {**names, "metric": plan.metric, "sampling": json.dumps(sampling)}


def _complete(context: Context) -> AuditPlan | None:
    """What was dealt out, when all of it is measured."""
    plan = read_audit_plan(context.work)
    if plan is None or context.job.report.audit is None:
        return None
    done = context.work.stage(layout.MEASURED).receipts()
    return plan if all(span.unit in done for some in plan.spans() for span in some) else None


def _measured(work: Workdir, spans: list[Span]) -> pa.Table:
    return pa.concat_tables([SCHEMA.empty_table(), *(work.stage(layout.MEASURED).read(span.unit) for span in spans)])


def _qualities(measured: pa.Table, side: str) -> NDArray[np.float64]:
    """NaN where there is none."""
    lists = measured[f"{side}_quality"].to_pylist()
    return np.array([found[0] if found else np.nan for found in lists], np.float64)


def _strata(plan: AuditPlan, positions: Positions, scores: Scores, measured: pa.Table) -> list[drop.Stratum]:
    ends = [(stratum.score, stratum.position) for stratum in plan.strata]
    rows = zip(scores.tolist(), positions.tolist(), strict=True)
    at = np.array([min(bisect.bisect_left(ends, row), len(ends) - 1) for row in rows], np.int64)
    small, large = _qualities(measured, "small"), _qualities(measured, "large")
    known = ~np.isnan(small) & ~np.isnan(large)
    return [
        drop.Stratum(stratum.rows, small[known & (at == number)], large[known & (at == number)])
        for number, stratum in enumerate(plan.strata)
    ]


def _answered_by_large(work: Workdir) -> int:
    receipts = [receipt for shard in OF_LARGE for receipt in work.stage(shard).receipts().values()]
    return sum(receipt.counts["generated"] - receipt.counts["failed"] for receipt in receipts)
