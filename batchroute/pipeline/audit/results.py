"""Results of an audit: the measured quality drop, and the audited rows as a quality table."""

from __future__ import annotations

import bisect
import json
from collections import Counter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchroute.costs.usage import model_usage
from batchroute.fields import LARGE, SIDES
from batchroute.pipeline import layout
from batchroute.pipeline.audit.measure import audited_rows
from batchroute.pipeline.audit.plan import AuditPlan, read_audit_plan
from batchroute.pipeline.audit.rows import OF_LARGE, Positions, Scores, scores_of, shard_positions, strata_scores
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.names import shard_stage
from batchroute.quality import drop
from batchroute.quality.audit import Audit
from batchroute.quality.measuring.columns import input_columns, with_qualities, with_responses
from batchroute.quality.measuring.measurer import SCHEMA
from batchroute.storage.units import Span
from batchroute.storage.workdir import Workdir
from batchroute.tables.parquet import PickedTable


def read_audit(context: Context) -> Audit | None:
    """The audit's results, from its units alone; None if the job asks for no audit or it is not complete."""
    plan = _complete(context)
    if plan is None:
        return None
    work, (audited, of_large) = context.work, plan.spans()
    measured, baseline = _measured(work, audited), _qualities(_measured(work, of_large), "large")
    positions = shard_positions(context, ["audited"])
    strata = _strata(plan, positions, strata_scores(context, positions), measured)
    estimate = drop.estimate(strata, baseline[~np.isnan(baseline)], _answered_by_large(work))
    model, price = context.job.models.large.model, context.snapshot.price("large")
    shard, answered = (stage.receipts().values() for stage in (shard_stage(work, "audited"), work.stage("audited")))
    failures = Counter(kind for kind in measured["error_type"].to_pylist() if kind is not None)
    return Audit(
        metric=plan.words,
        share=plan.share,
        seed=plan.seed,
        rows=plan.drawn,
        of=plan.of,
        measured=plan.drawn - failures.total(),
        large_rows=int((~np.isnan(baseline)).sum()),
        small_quality=estimate.small,
        large_quality=estimate.large,
        drop=estimate.drop,
        low=estimate.low,
        high=estimate.high,
        as_good=estimate.as_good,
        cost=model_usage(model, price, shard, answered).cost,
        failures=dict(sorted(failures.items())),
        likeness=plan.by_likeness,
    )


def audit_table(context: Context) -> pa.Table | None:
    """The audited rows with both answers and qualities: a quality table, which `label` can measure by another metric.

    None as for `read_audit`. All rows are in memory.
    """
    plan = _complete(context)
    if plan is None:
        return None
    positions = shard_positions(context, ["audited"])
    rows = audited_rows(context, plan)(Span("", 0, len(positions)))
    picked = PickedTable.of(context.table, positions)
    table = input_columns(picked, rows, context.job.input.id)
    table = table.append_column("score", pa.array(scores_of(context, positions)))
    table = with_responses(table, rows)
    if plan.reference is None or plan.by_likeness:
        table = table.drop_columns("reference")
    table = with_qualities(table, _measured(context.work, plan.spans()[0]))
    return table.replace_schema_metadata(metadata_of(context, plan.metric, plan.by_likeness))


def metadata_of(context: Context, metric: str, by_likeness: bool) -> dict[str, str]:
    """Of a quality table of the night's rows: the same keys as `label` writes."""
    models = {side: context.job.models.of(side) for side in SIDES}
    sampling = {
        "samples": 1,
        "temperature": {side: model.generation.temperature for side, model in models.items()},
        "max_new_tokens": {side: model.generation.max_new_tokens for side, model in models.items()},
    }
    names = {f"{side}_model": model.model for side, model in models.items()}
    likeness = {"reference": LARGE} if by_likeness else {}
    return {**names, **likeness, "metric": metric, "sampling": json.dumps(sampling)}


def _complete(context: Context) -> AuditPlan | None:
    """The plan, once all units are measured."""
    plan = read_audit_plan(context.work)
    if plan is None or context.job.report.audit is None:
        return None
    done = context.work.stage(layout.MEASURED).receipts()
    return plan if all(span.unit in done for some in plan.spans() for span in some) else None


def _measured(work: Workdir, spans: list[Span]) -> pa.Table:
    return pa.concat_tables([SCHEMA.empty_table(), *(work.stage(layout.MEASURED).read(span.unit) for span in spans)])


def _qualities(measured: pa.Table, side: str) -> NDArray[np.float64]:
    """NaN for a row without a quality."""
    lists = measured[f"{side}_quality"].to_pylist()
    return np.array([qualities[0] if qualities else np.nan for qualities in lists], np.float64)


def _strata(plan: AuditPlan, positions: Positions, scores: Scores, measured: pa.Table) -> list[drop.Stratum]:
    ends = [(stratum.score, stratum.position) for stratum in plan.strata]
    rows = zip(scores.tolist(), positions.tolist(), strict=True)
    stratum_of = np.array([min(bisect.bisect_left(ends, row), len(ends) - 1) for row in rows], np.int64)
    small, large = _qualities(measured, "small"), _qualities(measured, "large")
    known = ~np.isnan(small) & ~np.isnan(large)
    return [
        drop.Stratum(stratum.rows, small[known & (stratum_of == number)], large[known & (stratum_of == number)])
        for number, stratum in enumerate(plan.strata)
    ]


def _answered_by_large(work: Workdir) -> int:
    receipts = [receipt for shard in OF_LARGE for receipt in work.stage(shard).receipts().values()]
    return sum(
        receipt.counts["generated"] + receipt.counts.get("hits", 0) - receipt.counts["failed"] for receipt in receipts
    )
