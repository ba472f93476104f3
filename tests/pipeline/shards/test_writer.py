"""The shards of one pass over the rows: how long each of their pieces took."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchroute.fields import SIDES
from batchroute.pipeline.shards import writer
from batchroute.pipeline.shards.names import shard_stage
from batchroute.storage.local import LocalFolder
from batchroute.storage.workdir import Workdir, run_ids
from tests.support.jobs import JobFolder, table


def test_pieces_of_both_shards_take_as_long_as_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` adds them up."""
    read: list[float] = []

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            read.append(float(len(read)))
            return read[-1]

    monkeypatch.setattr(writer, "time", Clock)
    job = JobFolder(tmp_path, table(200))
    job.run()
    output = LocalFolder(job.output)
    work = Workdir(output, run_ids(output)[0])
    pieces = [piece for side in SIDES for piece in shard_stage(work, side).receipts().values()]
    assert len(pieces) > 4
    assert sum(piece.seconds for piece in pieces) == read[-1]
