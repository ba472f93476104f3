"""Fetching: the rows of a query or of a table become files in the work folder, to be read in ranges."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.pipeline import layout
from batchroute.pipeline.context import fetched_files
from batchroute.progress import Progress
from batchroute.storage.receipts import Facts
from batchroute.storage.workdir import Workdir
from batchroute.tables.files import Files
from batchroute.tables.ids import IdSet
from batchroute.tables.sources import source_of
from batchroute.tables.sources.base import Source
from batchroute.tables.sources.rows import FileRows
from batchroute.tables.sources.text import columns_in_words
from batchroute.tables.targets import target_of
from batchroute.tables.types import portable, portable_schema

_FILE_ROWS, _FILE_BYTES = 1 << 18, 128 << 20


class Fetched(NamedTuple):
    """The rows of a query or a table, as files of the work folder."""

    files: Files
    source: dict[str, Any]
    """The query or table, and the version that was read."""


def fetch(job: Job, work: Workdir, progress: Progress) -> Fetched:
    """Read the job's query or table into the work folder, unless an earlier attempt has read all of it.

    Each attempt has a folder of its own; the first complete one is the run's input, so that rows of two attempts never
    mix. All attempts read a table in the version that the first attempt found. Memory holds the rows of one file.

    Raises:
        InputError, StoppedError: as the source does.
    """
    complete = work.read_json(layout.INPUT)
    if complete is None:
        source = source_of(job.input)
        pinned = work.read_json(layout.SOURCE)
        if pinned is None:
            work.put_json(layout.SOURCE, source.pin())
            pinned = work.read_json(layout.SOURCE)
            assert pinned is not None
        attempt = uuid.uuid4().hex[:12]
        rows = _fetch(job, source, pinned, work, attempt, progress)
        fetched_from = {"from": source.public, "attempt": attempt, **pinned}
        work.put_json(layout.INPUT, {"rows": rows, "source": fetched_from})
        complete = work.read_json(layout.INPUT)
        assert complete is not None
    return Fetched(fetched_files(job, complete["source"], work), complete["source"])


def _fetch(job: Job, source: Source, pinned: dict[str, Any], work: Workdir, attempt: str, progress: Progress) -> int:
    version = pinned.get("version")
    progress.note("fetch", f"asking {source.public}" + ("" if version is None else f", version {version}"))
    if "columns" in pinned:
        progress.note("fetch", f"columns: {columns_in_words(pinned)}")
    stage, rows = work.stage(f"{layout.FETCHED}/{attempt}"), 0
    with source.rows(pinned) as reader:
        if isinstance(source, FileRows) and source.drift:
            progress.note("input", f"columns of the files differ: {source.drift}")
        schema = portable_schema(reader.schema)
        batches: Iterator[pa.RecordBatch] = (portable(batch) for batch in reader)
        if job.input.only_new is not None:
            batches = _new(batches, schema, job, progress)
        for number, gathered in enumerate(_files(batches)):
            count = sum(batch.num_rows for batch in gathered)
            stage.commit(Facts.of(work.run_id, f"{number:05d}", range(rows, rows + count)), schema, gathered)
            rows += count
            progress.note("fetch", f"{rows:,} rows fetched", rows=rows)
    return rows


def _new(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema, job: Job, progress: Progress
) -> Iterator[pa.RecordBatch]:
    """The rows to which the output table has no answer."""
    assert job.input.only_new is not None
    by, target = job.input.only_new.by, target_of(job.output.table, job.input.id)
    assert target is not None
    if by not in schema.names:
        raise InputError(f"input.only_new.by: no column '{by}' in the input; it has {', '.join(schema.names)}")
    kind = schema.field(by).type
    try:
        answered = IdSet(kind, target.answered(by, job.output.prefix))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"input.only_new.by: column '{by}' is {kind} in the input, which {target.public} does not hold: give them "
            "one type in the query"
        ) from error
    left_out = 0
    for batch in batches:
        known = answered.contains(batch.column(by))
        left_out += int(known.sum())
        yield batch.filter(pa.array(~known))
    progress.note("fetch", f"{left_out:,} rows left out: {target.public} has answers to them", rows=left_out)


def _files(batches: Iterator[pa.RecordBatch], most_bytes: int = _FILE_BYTES) -> Iterator[list[pa.RecordBatch]]:
    """Batches, gathered to files. Without any rows there is one empty file, which holds the schema."""
    gathered: list[pa.RecordBatch] = []
    rows = size = files = 0
    for batch in batches:
        gathered.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _FILE_ROWS or size >= most_bytes:
            yield gathered
            gathered, rows, size, files = [], 0, 0, files + 1
    if gathered or not files:
        yield gathered
