"""Concurrent: readers at any moment see whole files, and by the manifest all rows or none."""

from __future__ import annotations

import os
import time
from multiprocessing.synchronize import Event
from typing import Any

import polars as pl
import pytest

from tests.crash import forking
from tests.crash.places import ROWS, Place


@pytest.mark.crash
def test_a_reader_never_sees_part_of_a_file_or_of_a_committed_output(somewhere: Place, calm: pl.DataFrame) -> None:
    begun, stop, results = forking.event(), forking.event(), forking.results()
    somewhere.new_output()
    reader = forking.in_process(poll, somewhere.output, ROWS, somewhere.environment, stop, results, begun)
    assert begun.wait(120)
    processes = [somewhere.start() for _ in range(2)]
    for process in processes:
        process.join(120)
    stop.set()
    polls, files, wrong = results.get(timeout=120)
    reader.join(120)
    assert wrong == []
    assert polls > 1
    assert files > 0
    somewhere.check(calm)


def poll(
    output: str, rows: int, environment: dict[str, str], stop: Event, results: Any, begun: Event | None = None
) -> None:
    """Read the output again and again, as a reader who lists too early does, and once more after `stop`.

    Args:
        begun: set after the first poll.
    """
    os.environ.update(environment)
    import pyarrow as pa
    import pyarrow.parquet as pq

    import batchroute
    from batchroute.errors import InputError

    filesystem = forking.filesystem_of(output)
    polls = files = 0
    wrong: list[str] = []
    stopping = False
    while not stopping:
        stopping = stop.is_set()
        polls += 1
        for name in filesystem.glob(f"{output}/data/*.parquet"):
            try:
                pq.read_table(pa.BufferReader(filesystem.cat_file(name)))
                files += 1
            except Exception as error:
                wrong.append(f"{name}: {error}")
        try:
            frame = batchroute.read(output).collect()
            if frame.height != rows or frame["id"].n_unique() != rows:
                wrong.append(f"{frame.height} rows by the manifest")
        except InputError as error:
            if "is not committed" not in str(error):
                wrong.append(str(error))
        if begun is not None:
            begun.set()
        # The processes that write need the core too.
        time.sleep(0.01)
    results.put((polls, files, wrong))
    results.close()
    results.join_thread()
    os._exit(0)
