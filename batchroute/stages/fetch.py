"""Fetching: the result of a query, which cannot be asked twice, becomes files in the work folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pyarrow as pa

from batchroute.progress import Progress
from batchroute.spec import Job
from batchroute.storage.workdir import Facts, Workdir
from batchroute.tables.files import Files
from batchroute.tables.sql import Warehouse, plain, plain_schema

INPUT = "input.json"
STAGE = "input"
_FILE_ROWS, _FILE_BYTES = 1 << 18, 128 << 20


def fetch(job: Job, work: Workdir, progress: Progress) -> Files:
    """The files of the query's result; asks for it unless an earlier attempt has all of it.

    The rows of two attempts never mix: each attempt has a folder of its own, and the first one that is complete is the
    run's input. Memory holds one file's worth of rows.

    Raises:
        InputError, StoppedError: as `Warehouse.query`.
    """
    found = work.read_json(INPUT)
    if found is None:
        attempt = uuid.uuid4().hex[:12]
        rows = _fetch(job, work, attempt, progress)
        work.put_json(INPUT, {"attempt": attempt, "rows": rows})
        found = work.read_json(INPUT)
        assert found is not None
    folder = work.folder.folder(f"{STAGE}/{found['attempt']}")
    return Files(str(folder), job.output.storage_options)


def _fetch(job: Job, work: Workdir, attempt: str, progress: Progress) -> int:
    warehouse = Warehouse(job.input.warehouse)
    progress.note("fetch", f"asking {warehouse.public}")
    stage, rows = work.stage(f"{STAGE}/{attempt}"), 0
    with warehouse.query(job.input.query) as reader:
        schema = plain_schema(reader.schema)
        for number, batches in enumerate(_files(reader)):
            count = sum(batch.num_rows for batch in batches)
            facts = Facts(
                run_id=work.run_id,
                unit=f"{number:05d}",
                rows=count,
                first=rows if count else -1,
                last=rows + count - 1,
                seconds=0.0,
            )
            stage.commit(facts, schema, batches)
            rows += count
            progress.note("fetch", f"{rows:,} rows fetched", rows=rows)
    return rows


def _files(reader: pa.RecordBatchReader) -> Iterator[list[pa.RecordBatch]]:
    """Batches, as many together as one file holds; one empty file when there are no rows, so that there is a schema."""
    gathered: list[pa.RecordBatch] = []
    rows = size = files = 0
    for batch in reader:
        gathered.append(plain(batch))
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _FILE_ROWS or size >= _FILE_BYTES:
            yield gathered
            gathered, rows, size, files = [], 0, 0, files + 1
    if gathered or not files:
        yield gathered
