"""The report: sums up the receipts and the output of a run; written before the commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.costs import report as cost_report
from batchroute.costs.prices import usd
from batchroute.costs.report import CostReport, Deferred, Escalated
from batchroute.costs.usage import ModelUsage, model_usage, router_usage
from batchroute.generators.base import ANSWERED_ALL_THE_SAME
from batchroute.pipeline import layout
from batchroute.pipeline.audit.plan import read_audit_plan
from batchroute.pipeline.audit.results import audit_table
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.names import Shard, shard_stage, side_of
from batchroute.pipeline.stages.defer import read_deferral
from batchroute.pipeline.stages.escalate import read_escalation
from batchroute.pipeline.stages.night import gather
from batchroute.pipeline.stages.partition import Partition, read_partition
from batchroute.pipeline.stages.read import reader_usage
from batchroute.pipeline.tonight.drawn import SHARDS as CALIBRATION_SHARDS
from batchroute.pipeline.tonight.drawn import read_drawn
from batchroute.pipeline.tonight.table import calibration_table
from batchroute.reports import night as nights
from batchroute.reports.export import metrics
from batchroute.reports.night import NightReport
from batchroute.reports.page import html as page
from batchroute.reports.page import markdown
from batchroute.storage.folder import Folder

if TYPE_CHECKING:
    import polars as pl


def write_report(context: Context) -> NightReport:
    """Write the files of the report that no earlier attempt wrote. All others follow from the first two."""
    from batchroute.reports.export import focus

    output, assigned = context.work.output, read_partition(context.work)
    assert assigned is not None
    folder = output.folder("report")
    existing = folder.names("")

    def put(name: str, make: Callable[[], bytes | memoryview]) -> None:
        if name not in existing:
            folder.put_new(name, make())

    groups = _groups(context)
    put(cost_report.JSON, lambda: _cost(context, assigned, groups).model_dump_json(indent=1).encode())
    put(nights.REPORT, lambda: gather(context, read_cost(output)).model_dump_json(indent=1).encode())
    night = NightReport.of(output)
    put(cost_report.TABLE, lambda: _parquet(cost_report.to_frame(night.cost, groups).to_arrow()))
    put(nights.FOCUS, lambda: focus.parquet(night, night.prices))
    put(nights.METRICS, lambda: metrics.render(night).encode())
    audited = audit_table(context)
    if audited is not None:
        put(nights.AUDIT, lambda: _parquet(audited))
    calibrated = calibration_table(context)
    if calibrated is not None:
        put(nights.CALIBRATION, lambda: _parquet(calibrated))
    put(nights.TEXT, lambda: markdown.render(night).encode())
    put(nights.PAGE, lambda: page.render(night).encode())
    return night


def _parquet(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())


def _groups(context: Context) -> pl.DataFrame:
    job = context.job
    return cost_report.by_group(_data_files(context), job.output.prefix, job.report.group_by, ANSWERED_ALL_THE_SAME)


def read_cost(output: Folder) -> CostReport:
    return CostReport.model_validate_json(output.folder("report").read(cost_report.JSON))


def _data_files(context: Context, with_failures: bool = False) -> list[Any]:
    """Args:
    with_failures: leave out files in which no row has failed.
    """
    data = context.work.output.folder("data")
    parts = context.work.stage(layout.MERGE).receipts().values()
    return [data.parquet(part.file, part.bytes) for part in parts if not with_failures or part.counts.get("failed", 1)]


def _cost(context: Context, assigned: Partition, groups: pl.DataFrame) -> CostReport:
    job, work, frozen = context.job, context.work, context.snapshot
    price = frozen.prices["router"]
    scored = work.stage(layout.SCORE).receipts().values()
    return cost_report.build(
        name=job.name,
        run_id=frozen.run_id,
        rows=_counts(context, assigned),
        router=router_usage("" if job.router is None else job.router.model, price.price, scored, price.source),
        small=_usage(context, "small"),
        large=_usage(context, "large"),
        escalated=_escalated(context),
        deferred=_deferred(context),
        calibration=_calibration(context),
        reader=reader_usage(context),
        audited=None if read_audit_plan(work) is None else _usage(context, "audited"),
        large_price=frozen.price("large"),
        groups=groups,
        failures=cost_report.failures(_data_files(context, with_failures=True), job.output.prefix),
    )


def _usage(context: Context, shard: Shard) -> ModelUsage:
    side = side_of(shard)
    price = context.snapshot.prices[side]
    assigned, answered = shard_stage(context.work, shard).receipts(), context.work.stage(shard).receipts()
    return model_usage(
        context.job.models.of(side).model, price.price, assigned.values(), answered.values(), price.source
    )


def _escalated(context: Context) -> Escalated | None:
    escalation = read_escalation(context.work)
    if escalation is None:
        return None
    spent = None if context.snapshot.price("small") is None else usd(escalation.spent_pico)
    return Escalated(
        rows=escalation.rows, reasons=escalation.reasons, small_cost=spent, usage=_usage(context, "escalated")
    )


def _deferred(context: Context) -> Deferred | None:
    deferral = read_deferral(context.work)
    if deferral is None:
        return None
    spent = None if context.snapshot.price("small") is None else usd(deferral.spent_pico)
    usage = _usage(context, "deferred")
    return Deferred(rows=deferral.rows, no_answer=deferral.no_answer, small_cost=spent, usage=usage)


def _calibration(context: Context) -> dict[str, ModelUsage] | None:
    if read_drawn(context.work) is None:
        return None
    return {side: _usage(context, shard) for side, shard in CALIBRATION_SHARDS.items()}


def _counts(context: Context, assigned: Partition) -> dict[str, int]:
    parts = context.work.stage(layout.MERGE).receipts().values()
    names = ["ok", "failed", "small", "large", "escalated", "unrouted"]
    deferral = read_deferral(context.work)
    # Only where there can be any: the counts of other jobs stay as they are.
    names += [] if deferral is None else ["deferred"]
    names += [] if read_drawn(context.work) is None else ["calibration_large"]
    scored = context.work.stage(layout.SCORE).receipts().values()
    unsupported = sum(chunk.counts.get("unsupported", 0) for chunk in scored)
    return {
        "total": context.snapshot.rows,
        **{name: sum(part.counts.get(name, 0) for part in parts) for name in names},
        "copies": sum(assigned.copies.values()),
        **({"unsupported": unsupported} if unsupported else {}),
    }
