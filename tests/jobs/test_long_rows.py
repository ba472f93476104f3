"""Rows of half a megabyte: what is held in memory at a time is cut by size."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.pipeline.identity import identify
from batchroute.pipeline.stages import snapshot
from tests.support.jobs import JobFolder, table

CHATS, LONG = 150, 500_000
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def test_units_of_long_chats_hold_as_many_bytes_as_others_at_most(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, units={})
    chats = [[{"role": "user", "content": f"{n:<{LONG}}"}] for n in range(CHATS)]
    rows = {"id": [str(n) for n in range(CHATS)], "prompt": pa.array(chats, MESSAGES), "team": ["a"] * CHATS}
    pq.write_table(pa.table(rows), job.input)
    loaded = job.load()
    frozen, opened = snapshot.inspect(loaded, identify(loaded))
    assert frozen.prompt_kind == "messages"
    for most, bound in ((32 << 20, frozen.chunk_rows), (32 << 20, frozen.unit_rows), (128 << 20, frozen.part_rows)):
        assert most / 2 < bound * LONG <= most
    read = list(opened.reader().read(0, CHATS))
    assert sum(batch.num_rows for batch in read) == CHATS
    assert max(batch.nbytes for batch in read) < 9 << 20


def test_units_of_short_rows_are_as_they_were(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(3000), units={})
    loaded = job.load()
    frozen, _ = snapshot.inspect(loaded, identify(loaded))
    assert (frozen.chunk_rows, frozen.unit_rows, frozen.part_rows) == (2048, 256, 65536)
