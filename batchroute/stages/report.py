"""The report: what a run's receipts and its output add up to, written beside the output before that is committed."""

from __future__ import annotations

import io

from batchroute.costs import report as cost_report
from batchroute.costs.prices import usd
from batchroute.costs.report import CostReport, Escalated
from batchroute.costs.usage import ModelUsage, model_usage, router_usage
from batchroute.generators.base import ANSWERED_ALL_THE_SAME
from batchroute.stages import merge, score
from batchroute.stages.context import Context
from batchroute.stages.escalate import read_escalation
from batchroute.stages.partition import Partition
from batchroute.stages.shards import Shard, shard_stage, side_of
from batchroute.storage.folder import Folder


def write_report(context: Context, dealt: Partition) -> CostReport:
    """Write the report, unless an earlier attempt has written it."""
    job, work, frozen = context.job, context.work, context.snapshot
    parts = work.stage(merge.STAGE).receipts()
    data = work.output.folder("data")
    files = [data.parquet(part.file, part.bytes) for part in parts.values()]
    counts = _counts(context, dealt)
    price = frozen.prices["router"]
    scored = work.stage(score.STAGE).receipts().values()
    groups = cost_report.by_group(files, job.output.prefix, job.report.group_by, ANSWERED_ALL_THE_SAME)
    report = cost_report.build(
        name=job.name,
        run_id=frozen.run_id,
        rows=counts,
        router=router_usage(job.router.model, price.price, scored, price.source),
        small=_usage(context, "small"),
        large=_usage(context, "large"),
        escalated=_escalated(context),
        large_price=frozen.price("large"),
        groups=groups,
        failures=cost_report.failures(files, job.output.prefix),
    )
    folder = work.output.folder("report")
    frame = io.BytesIO()
    cost_report.to_frame(report, groups).write_parquet(frame)
    folder.put_new(cost_report.TABLE, frame.getvalue())
    folder.put_new(cost_report.JSON, report.model_dump_json(indent=1).encode())
    return read_report(work.output)


def _usage(context: Context, shard: Shard) -> ModelUsage:
    side = side_of(shard)
    price = context.snapshot.prices[side]
    dealt, answered = shard_stage(context.work, shard).receipts(), context.work.stage(shard).receipts()
    return model_usage(context.job.models.of(side).model, price.price, dealt.values(), answered.values(), price.source)


def _escalated(context: Context) -> Escalated | None:
    found = read_escalation(context.work)
    if found is None:
        return None
    spent = None if context.snapshot.price("small") is None else usd(found.spent_pico)
    return Escalated(rows=found.rows, reasons=found.reasons, small_cost=spent, usage=_usage(context, "escalated"))


def read_report(output: Folder) -> CostReport:
    return CostReport.model_validate_json(output.folder("report").read(cost_report.JSON))


def _counts(context: Context, dealt: Partition) -> dict[str, int]:
    parts = context.work.stage(merge.STAGE).receipts().values()
    names = ("ok", "failed", "small", "large", "escalated", "unrouted")
    return {
        "total": context.snapshot.rows,
        **{name: sum(part.counts.get(name, 0) for part in parts) for name in names},
        "copies": sum(dealt.copies.values()),
    }
