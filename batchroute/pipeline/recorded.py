"""Recorded signals: columns of the input that tell something of the small model's answers, such as those of a log."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.pipeline.context import Context
from batchroute.tables.parquet import PromptTable

KEY = "policy.signals"


def check_recorded(job: Job, table: PromptTable) -> None:
    """Raises:
    InputError: a column of `policy.signals` is not in the input, or holds no numbers.
    """
    named = job.policy.signals or []
    for number, column in enumerate(named):
        if column in named[:number]:
            raise InputError(f"{KEY}: '{column}' is there twice: leave one out")
        table.check_column(column, KEY)
        kind = table.schema.field(column).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise InputError(f"{KEY}: column '{column}' is {kind}; a signal is a number, or true or false")


def recorded_signals(context: Context) -> dict[str, NDArray[np.float32]]:
    """By column: shape [rows], NaN for null; 4 bytes of memory a row and column."""
    columns = context.job.policy.signals or ()
    values = {column: np.full(context.table.rows, np.nan, np.float32) for column in columns}
    if not values:
        return values
    at = 0
    for batch in context.table.reader(columns).read(0, context.table.rows):
        for column in values:
            floats = pc.cast(batch.column(column), pa.float32(), safe=False)
            values[column][at : at + batch.num_rows] = floats.to_numpy(zero_copy_only=False)
        at += batch.num_rows
    return values
