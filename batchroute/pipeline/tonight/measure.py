"""Measuring tonight's calibration: the quality of both models' answers to each drawn row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchroute import quality
from batchroute.config.job import Job
from batchroute.engines.base import Pool
from batchroute.errors import InputError
from batchroute.fields import LARGE, SIDES, Side
from batchroute.pipeline import layout
from batchroute.pipeline.audit.rows import AuditAnswers
from batchroute.pipeline.context import Context
from batchroute.pipeline.tonight.drawn import SHARDS, Drawn, read_drawn
from batchroute.quality.measuring.measurer import SCHEMA, Measurer
from batchroute.quality.measuring.responses import AnsweredRows
from batchroute.storage.workdir import Workdir
from batchroute.tables.parquet import PickedTable, PromptTable


def check_calibrate(job: Job, table: PromptTable) -> None:
    """Raises:
    InputError: the job calibrates tonight, and its metric has no reference to compare with.
    """
    spec = job.policy.calibrate
    if spec is None or spec.by_likeness:
        return
    column = spec.reference or ("reference" if "reference" in table.schema.names else None)
    if column is not None:
        table.check_groupable(column, "policy.calibrate.reference")
    elif spec.metric.record.needs_reference:
        raise InputError(
            f"policy.calibrate: the metric {spec.metric.name} needs a reference: name its column as "
            f"policy.calibrate.reference, or take the large model's answer by reference: {LARGE}; the input has "
            f"{', '.join(table.schema.names)}"
        )


def measure_tonight(context: Context) -> None:
    """Measure all units that have no receipt; both models must have answered the drawn rows.

    Raises:
        InputError: the metric cannot be used.
        StoppedError: the metric failed on all responses of a unit.
    """
    spec, drawn = context.job.policy.calibrate, read_drawn(context.work)
    assert spec is not None
    assert drawn is not None
    # Concurrency is limited per process: several processes would exceed what the endpoint allows.
    pool: Pool | None = None if spec.metric.record.behind_api else "router"
    with context.engine.workers(context, _measurer, pool) as workers:
        workers.run(layout.CALIBRATED, drawn.spans())


def measured(work: Workdir, drawn: Drawn) -> pa.Table:
    """The qualities of the drawn rows, in order."""
    stage = work.stage(layout.CALIBRATED)
    return pa.concat_tables([SCHEMA.empty_table(), *(stage.read(span.unit) for span in drawn.spans())])


def qualities_of(measured: pa.Table, side: Side) -> NDArray[np.float64]:
    """The quality of a model's answer to each row of `measured`; NaN where it is not known."""
    column = measured[f"{side}_quality"].to_pylist()
    return np.array([qualities[0] if qualities else np.nan for qualities in column], np.float64)


def _measurer(context: Context) -> Measurer:
    spec, drawn = context.job.policy.calibrate, read_drawn(context.work)
    assert spec is not None
    assert drawn is not None
    rows = drawn_rows(context, drawn)
    context.engine.progress.note("load", f"loading the metric {drawn.metric}")
    metric = quality.load(spec.metric, lambda: context.engine.device)
    return Measurer(metric, rows, context.work.stage(layout.CALIBRATED))


def drawn_rows(context: Context, drawn: Drawn) -> AnsweredRows:
    """The drawn rows with both models' answers."""
    spec = context.job.policy.calibrate
    assert spec is not None
    positions = np.array(drawn.positions, np.int64)
    answers = AuditAnswers(positions, {side: [context.work.stage(SHARDS[side])] for side in SIDES})
    column = None if drawn.by_likeness else drawn.reference
    needs_reference = spec.metric.record.needs_reference
    table = PickedTable.of(context.table, positions)
    return AnsweredRows(table, context.prompts, column, answers, needs_reference, drawn.by_likeness)
