"""The rows of tonight's calibration as a quality table, for the next training."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from batchroute.pipeline.audit.results import metadata_of
from batchroute.pipeline.audit.rows import scores_of
from batchroute.pipeline.context import Context
from batchroute.pipeline.tonight.drawn import read_drawn
from batchroute.pipeline.tonight.figures import read_tonight
from batchroute.pipeline.tonight.measure import drawn_rows, measured
from batchroute.quality.measuring.columns import input_columns, with_qualities, with_responses
from batchroute.storage.units import Span
from batchroute.tables.parquet import PickedTable


def calibration_table(context: Context) -> pa.Table | None:
    """The drawn rows with both answers and qualities; None without a calibration of tonight. All rows are in memory."""
    drawn = read_drawn(context.work)
    if drawn is None or read_tonight(context.work) is None or context.job.policy.calibrate is None:
        return None
    positions = np.array(drawn.positions, np.int64)
    rows = drawn_rows(context, drawn)(Span("", 0, len(positions)))
    table = input_columns(PickedTable.of(context.table, positions), rows, context.job.input.id)
    if context.job.router is not None:
        table = table.append_column("score", pa.array(scores_of(context, positions)))
    table = with_responses(table, rows)
    if drawn.reference is None or drawn.by_likeness:
        table = table.drop_columns("reference")
    table = with_qualities(table, measured(context.work, drawn))
    return table.replace_schema_metadata(metadata_of(context, drawn.metric, drawn.by_likeness))
