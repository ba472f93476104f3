"""Rows of half a megabyte: what is held in memory at a time is cut by size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.pipeline.identity import identify
from batchroute.pipeline.stages import snapshot
from tests.benchmarks.job_without_models import score_only
from tests.support.jobs import JobFolder, table

CHATS, LONG = 64, 500_000
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@contextmanager
def counted() -> Iterator[pa.MemoryPool]:
    """Memory of Arrow that knows its peak."""
    whole = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(whole)
    pa.set_memory_pool(counting)
    try:
        yield counting
    finally:
        pa.set_memory_pool(whole)


def long_chats(folder: Path, **settings: int) -> JobFolder:
    """
    Args:
        settings: of the parquet writer.
    """
    job = JobFolder(folder, units={})
    chats = [[{"role": "user", "content": f"{n:<{LONG}}"}] for n in range(CHATS)]
    rows = {"id": [str(n) for n in range(CHATS)], "prompt": pa.array(chats, MESSAGES), "team": ["a"] * CHATS}
    pq.write_table(pa.table(rows), job.input, **settings)
    return job


def test_units_of_long_chats_hold_as_many_bytes_as_others_at_most(tmp_path: Path) -> None:
    job = long_chats(tmp_path)
    loaded = job.load()
    frozen, opened = snapshot.inspect(loaded, identify(loaded))
    assert frozen.prompt_kind == "messages"
    for most, bound in ((16 << 20, frozen.chunk_rows), (16 << 20, frozen.unit_rows), (64 << 20, frozen.part_rows)):
        assert most / 2 < bound * LONG <= most
    read = list(opened.reader().read(0, CHATS))
    assert sum(batch.num_rows for batch in read) == CHATS
    assert max(batch.nbytes for batch in read) < 9 << 20


@pytest.mark.parametrize(
    ("settings", "megabytes"),
    # As pyarrow writes them: all rows in one page of 32 MB, which comes into memory whole. And in pages of one row.
    [({}, 170), ({"write_batch_size": 1}, 135)],
    ids=["one page", "small pages"],
)
def test_a_night_of_long_chats_holds_little_in_memory_and_so_do_its_readers(
    tmp_path: Path, settings: dict[str, int], megabytes: int
) -> None:
    job = long_chats(tmp_path, **settings)
    score_only(job.path)  # a router would read 32 MB
    with counted() as of_job:
        job.run()
    (part,) = (job.output / "data").iterdir()
    with counted() as of_reader, pq.ParquetFile(part, pre_buffer=False, buffer_size=1 << 20) as opened:
        assert sum(batch.num_rows for batch in opened.iter_batches(1, use_threads=False)) == CHATS
    assert of_job.max_memory() < megabytes << 20
    assert of_reader.max_memory() < 8 << 20


def test_units_of_short_rows_are_as_they_were(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(3000), units={})
    loaded = job.load()
    frozen, _ = snapshot.inspect(loaded, identify(loaded))
    assert (frozen.chunk_rows, frozen.unit_rows, frozen.part_rows) == (2048, 256, 65536)
