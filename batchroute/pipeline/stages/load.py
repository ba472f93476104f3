"""Loading: the rows of a committed output go into the job's table, all of them or none, and once."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from batchroute.config.job import Job
from batchroute.errors import BatchrouteError, StoppedError
from batchroute.progress import Progress
from batchroute.storage.folder import Folder
from batchroute.storage.manifest import Manifest
from batchroute.tables.targets import target_of
from batchroute.tables.targets.base import Answers

_READ_ROWS = 8192
_ATTEMPTS, _LONGEST_WAIT = 5, 20.0


def load(job: Job, output: Folder, committed: Manifest, progress: Progress, attempts: int = _ATTEMPTS) -> None:
    """Load the rows of the committed files into the job's table, unless it has none or holds these rows already.

    Another attempt does no harm: the target records the commit together with its rows.

    Raises:
        InputError, StoppedError: as the target does; the output stays committed, and the same run loads it later.
    """
    target = target_of(job.output.table, job.input.id)
    if target is None:
        return
    schema = _schema(output, committed)
    answers = Answers(
        committed.load_id, committed.serial, committed.rows, schema, lambda: _rows(output, committed, schema)
    )
    try:
        for attempt in Retrying(
            retry=retry_if_exception_type(StoppedError),
            stop=stop_after_attempt(attempts),
            wait=wait_exponential_jitter(0.5, _LONGEST_WAIT),
            reraise=True,
        ):
            with attempt:
                target.prepare(schema)
                loaded = target.load(answers)
    except BatchrouteError as error:
        message = f"the answers are committed in {output}, but not loaded into the table: {error}"
        raise type(error)(message) from error
    what = f"{committed.rows:,} rows into {target.public}"
    progress.note("load", f"loaded {what}" if loaded else f"nothing to load: {what} were loaded before")


def _schema(output: Folder, committed: Manifest) -> pa.Schema:
    file = committed.files[0]
    return pq.read_schema(output.parquet(file.path, file.bytes))


def _rows(output: Folder, committed: Manifest, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for file in committed.files:
        with pq.ParquetFile(output.parquet(file.path, file.bytes), pre_buffer=False, buffer_size=1 << 20) as source:
            for group in range(source.num_row_groups):
                yield from source.iter_batches(_READ_ROWS, [group])
