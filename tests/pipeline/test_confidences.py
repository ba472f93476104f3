"""Confidences of a run are read by position, from units of this version and of earlier ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from batchroute.pipeline import layout
from batchroute.pipeline.confidences import Confidences
from batchroute.storage.local import LocalFolder
from batchroute.storage.receipts import Facts
from batchroute.storage.units import spans
from batchroute.storage.workdir import Workdir, run_ids
from tests.support.jobs import JobFolder, table

ROWS = 200


def put(work: Workdir, stage: str, values: pa.Array, size: int) -> None:
    units = work.stage(stage)
    for span in spans(len(values), size):
        rows = pa.table({"position": pa.array(span.positions), "confidence": values[span.start : span.stop]})
        units.commit(Facts.of(work.run_id, span.unit, span.positions), rows.schema, rows.to_batches())


def test_rows_are_read_across_units(tmp_path: Path) -> None:
    work = Workdir(LocalFolder(tmp_path / "out"), "0" * 16)
    assert not Confidences(work)
    values = pa.array([None if row % 7 == 3 else row / ROWS for row in range(ROWS)], pa.float32())
    for stage, size in ((layout.EARLIER_CONFIDENCE, 32), (layout.CONFIDENCE, 96)):
        put(work, stage, values, size)
        confidences = Confidences(work)
        assert confidences
        for start, stop in ((0, ROWS), (0, 32), (31, 33), (95, 97), (96, 192), (199, 200)):
            assert confidences.within(start, stop).to_pylist() == values[start:stop].to_pylist()
        positions = np.array([0, 3, 95, 96, 101, 199])
        wanted = [0.0 if value is None else value for value in values.take(pa.array(positions)).to_pylist()]
        assert confidences.at(positions).tolist() == wanted


def test_a_run_that_an_earlier_version_has_decided_goes_on(tmp_path: Path) -> None:
    """It has kept confidences by chunk; the output and the audit are the same by them."""
    frame = table(ROWS).with_columns(reference=pl.col("prompt"))
    job = JobFolder(tmp_path, frame, policy={"decide": "after", "small_share": "50%"})
    job.settings["report"] = {"audit": {"share": "50%", "metric": {"name": "exact_match"}}}
    first, answers = job.run(), job.answers()
    output = LocalFolder(job.output)
    work = Workdir(output, run_ids(output)[0])
    put(work, layout.EARLIER_CONFIDENCE, answers["confidence"].to_arrow().cast(pa.float32()), 64)
    for name in (layout.CONFIDENCE, layout.MERGE, layout.AUDIT, layout.MEASURED):
        work.folder.remove(name) if name.endswith(".json") else work.folder.folder(name).remove_all()
    shutil.rmtree(job.output)
    second = job.run()
    assert job.answers().equals(answers)
    assert not work.folder.exists(layout.CONFIDENCE)
    assert first.night is not None
    assert second.night is not None
    assert second.night.audit == first.night.audit
