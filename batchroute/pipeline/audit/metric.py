"""The metric of an audit: the one that the job names, or the one that the router was trained by."""

from __future__ import annotations

from pathlib import Path

from batchroute import models, quality
from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.fields import LARGE
from batchroute.pipeline.audit.plan import AuditPlan
from batchroute.quality.audit import AuditSpec
from batchroute.quality.base import MetricSpec
from batchroute.router.notes import CALIBRATION_FILE, ROUTER_FILE, read_json
from batchroute.tables.parquet import PromptTable


def check_audit(job: Job, table: PromptTable) -> None:
    """Raises:
    InputError: the job asks for an audit, and its metric is not known or its reference is missing.
    """
    if job.report.audit is not None:
        reference_column(job.report.audit, metric_of(job), table)


def metric_of(job: Job) -> MetricSpec:
    """The metric that the job names, else the router's own.

    Raises:
        InputError: the router's metric is not known, or its notes do not say how to reach it (a judge's endpoint).
    """
    assert job.report.audit is not None
    if job.report.audit.metric is not None:
        return job.report.audit.metric
    if job.router is None:
        raise InputError(
            "report.audit: without a router there is no metric that it was trained by: name the audit's metric as "
            "report.audit.metric, for example {name: rouge}"
        )
    folder = Path(models.resolve(job.router.model))
    notes = [read_json(folder / file) or {} for file in (CALIBRATION_FILE, ROUTER_FILE)]
    description = next((note["metric"] for note in notes if note.get("metric")), None)
    metric = None if description is None else quality.named(description)
    if metric is None:
        why = f"was trained by {description}" if description else "does not say by which metric it was trained"
        raise InputError(
            f"report.audit: the router '{job.router.model}' {why}: name the audit's metric as report.audit.metric, for "
            "example {name: rouge}"
        )
    return metric


def planned_metric(job: Job, plan: AuditPlan) -> MetricSpec:
    """The metric of the plan; settings that the plan does not fix, such as a judge's endpoint, come from the job.

    Raises:
        InputError: the plan's metric needs such settings, and the job names another metric.
    """
    current = metric_of(job)
    planned = current if quality.describe(current) == plan.metric else quality.named(plan.metric)
    if planned is None:
        raise InputError(
            f"report.audit.metric is {quality.describe(current)}, but this run's audit was begun with {plan.metric}: "
            "set it back, or leave report.audit out"
        )
    return planned


def reference_column(spec: AuditSpec, metric: MetricSpec, table: PromptTable) -> str | None:
    """The column of references, or `LARGE` for the large model's answers; None if there is none and none is needed.

    Raises:
        InputError: the metric needs the column and it is missing, or the column holds no text.
    """
    if spec.reference == LARGE:
        return LARGE
    column = spec.reference or ("reference" if "reference" in table.schema.names else None)
    if column is not None:
        table.check_groupable(column, "report.audit.reference")
    elif metric.record.needs_reference:
        raise InputError(
            f"report.audit: the metric {metric.name} needs a reference: name its column as report.audit.reference, or "
            f"compare with the large model's answers by reference: large; the input has {', '.join(table.schema.names)}"
        )
    return column
