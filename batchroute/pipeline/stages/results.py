"""Results: the columns that the output adds to those of the input."""

from __future__ import annotations

import pyarrow as pa

from batchroute import models
from batchroute.config.job import Job
from batchroute.costs.columns import COST
from batchroute.fields import SIDES
from batchroute.pipeline.shards import answers
from batchroute.pipeline.stages.score import SPREAD
from batchroute.tables.footers import carried
from batchroute.tables.parquet import PromptTable
from batchroute.tables.types import writable_type

RESULTS = pa.schema(
    [
        pa.field("route", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("model", pa.string()),
        pa.field("response", pa.large_string()),
        pa.field("finish_reason", pa.string()),
        pa.field("input_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
        pa.field("cost", COST),
        pa.field("status", pa.string()),
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        pa.field("attempts", pa.int32()),
    ]
)
CONFIDENCE = pa.field("confidence", pa.float32())
SIGNALS = tuple(pa.field(name, pa.float32()) for name in ("logprob", "logprob_low", "agreement"))
"""Of the small model's answer; null where it gave none. Only in outputs of jobs that ask for them."""

READING = pa.field("reading", pa.float32())
"""After them, in a job with a reader of answers."""


def signals_of(job: Job) -> tuple[pa.Field, ...]:
    """The signals that the output shows."""
    if not job.report.signals:
        return ()
    return SIGNALS if job.reader is None else (*SIGNALS, READING)


def results_of(job: Job) -> pa.Schema:
    """The columns that the output adds to those of the input, without the prefix."""
    texts = answers.of_texts([job.models.of(side) for side in SIDES])
    cache = [answers.FROM_CACHE] if job.cache is not None else []
    confidence = [CONFIDENCE] if job.policy.looks_after else []
    spread = [SPREAD] if job.router is not None and models.has_heads(job.router.model) else []
    return pa.schema([*RESULTS, *texts, *cache, *confidence, *signals_of(job), *spread, *job.json_columns])


def result_names(job: Job) -> list[str]:
    """The names of the columns that the output adds to those of the input."""
    return [job.output.prefix + name for name in results_of(job).names]


def output_schema(job: Job, table: PromptTable) -> pa.Schema:
    results = [field.with_name(job.output.prefix + field.name) for field in results_of(job)]
    columns = [field.with_type(writable_type(field.type)) for field in table.schema]
    return pa.schema([*columns, *results], metadata=carried(table.schema.metadata))
