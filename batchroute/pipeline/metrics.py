"""The metrics of a job, tried before anything is paid for: that of tonight's calibration and that of the audit."""

from __future__ import annotations

from collections.abc import Iterator

from batchroute import models, quality
from batchroute.config.job import Job
from batchroute.errors import at_key
from batchroute.pipeline.audit.metric import metric_of
from batchroute.pipeline.context import Context
from batchroute.pipeline.tonight.drawn import SHARDS
from batchroute.quality.base import MetricSpec


def check_metrics(context: Context) -> None:
    """Try the metrics, unless the models have answers already.

    Raises:
        InputError: as `quality.check`.
    """
    if context.work.stage("small").receipts():
        return
    calibrating = not context.work.stage(SHARDS["small"]).receipts()
    tried: set[MetricSpec] = set()
    for key, metric in _metrics(context.job, calibrating):
        if metric not in tried:
            with at_key(key):
                quality.check(metric, lambda: context.engine.device)
            tried.add(metric)


def check_models(job: Job) -> None:
    """Look for the metrics' models on this machine, as far as that is possible without loading them.

    Raises:
        InputError: a directory is not there, or holds no model.
    """
    for key, metric in _metrics(job):
        if metric.model is not None and not metric.record.behind_api:
            with at_key(key):
                models.resolve(metric.model)


def _metrics(job: Job, calibrating: bool = True) -> Iterator[tuple[str, MetricSpec]]:
    if job.policy.calibrate is not None and calibrating:
        yield "policy.calibrate.metric", job.policy.calibrate.metric
    if job.report.audit is not None:
        yield "report.audit.metric", metric_of(job)
