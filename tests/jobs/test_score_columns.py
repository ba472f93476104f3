"""What scoring puts down for drift beside the scores, and that it does not change them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from batchroute.pipeline.context import Context
from batchroute.pipeline.stages.score import Scorer
from batchroute.router.drift import measure as drift
from batchroute.router.drift.measure import Night
from batchroute.router.drift.reference import Reference
from batchroute.router.model import Router
from batchroute.router.scoring import score
from batchroute.storage.receipts import Receipt
from batchroute.storage.units import Span
from tests.support.jobs import JobFolder, table

ROWS, CHUNK = 200, 150
COLUMNS = ["language", "place", "distance"]


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    frame = table(ROWS).with_columns(
        prompt=pl.when(pl.col("id") == "row-3").then(None).otherwise(pl.col("prompt") + " Which of these is a fruit?")
    )
    folder = JobFolder(tmp_path, frame, units={"score": CHUNK, "generate": 40, "merge": CHUNK})
    folder.settings["output"]["keep_work"] = True
    return folder


def scored(folder: JobFolder) -> list[pl.DataFrame]:
    """The score files of the only run, in order."""
    files = sorted(folder.folder.glob("out.work/*/score/*.parquet"))
    assert len(files) == 2
    return [pl.read_parquet(file) for file in files]


def test_each_usable_row_has_its_place_and_some_have_their_language(folder: JobFolder) -> None:
    folder.calibrate()
    folder.run()
    first, second = scored(folder)
    for chunk, usable in ((first, CHUNK - 1), (second, ROWS - CHUNK)):
        assert chunk["place"].count() == chunk["distance"].count() == usable
        assert chunk["language"].count() == min(64, usable)
    assert first.filter(pl.col("position") == 3).select(COLUMNS).row(0) == (None, None, None)
    assert set(first["language"].drop_nulls()) == {"en"}
    known = Reference.of(str(folder.router))
    assert known is not None
    assert known.content is not None
    texts = pl.read_parquet(folder.input)["prompt"][CHUNK:].to_list()
    router = Router.load(str(folder.router), torch.device("cpu"))
    embeddings = score(router, texts, with_embeddings=True).embeddings
    assert embeddings is not None
    places, distances = known.content.places(embeddings)
    assert second["place"].to_list() == places.tolist()
    np.testing.assert_allclose(second["distance"], distances, atol=1e-5)
    found = drift.measure(known, Night.gather(chunk.to_arrow() for chunk in (first, second)))
    assert (found.rows, len(found.features)) == (ROWS - 1, 4)


def test_the_same_rows_have_their_language_looked_at_in_every_attempt(folder: JobFolder) -> None:
    folder.calibrate()
    folder.run()
    before = scored(folder)
    folder.run(fresh=True)
    assert all(one.equals(other) for one, other in zip(before, scored(folder), strict=True))
    looked_at = before[0].filter(pl.col("language").is_not_null())["position"]
    assert looked_at.max() > 100, "they are not the first ones"


def test_without_a_reference_the_columns_are_empty_and_the_scores_the_same(folder: JobFolder) -> None:
    folder.calibrate()
    folder.run()
    with_reference = scored(folder)
    (folder.router / "reference.json").unlink()
    folder.run(fresh=True)
    for before, now in zip(with_reference, scored(folder), strict=True):
        assert now.select(COLUMNS).null_count().row(0) == (len(now),) * 3
        # Without embeddings the last layer works for one token: the scores differ by rounding.
        assert_frame_equal(now.drop(COLUMNS), before.drop(COLUMNS), rel_tol=1e-5)


def test_chunks_scored_beside_one_another_as_on_a_gpu_are_the_same(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.settings["units"]["score"] = 10
    folder.calibrate()
    folder.run()
    one_by_one = receipts_and_rows(folder)
    load, threads = Scorer.do, set()

    def note(self: Scorer, stage: str, chunk: Span) -> Receipt:
        threads.add(threading.get_ident())
        return load(self, stage, chunk)

    made = Scorer.__init__

    def make(self: Scorer, context: Context) -> None:
        made(self, context)
        self.units_at_once = 2

    monkeypatch.setattr(Scorer, "do", note)
    monkeypatch.setattr(Scorer, "__init__", make)
    started = time.perf_counter()
    folder.run(fresh=True)
    seconds = time.perf_counter() - started
    beside = receipts_and_rows(folder)
    assert len(threads) == 2
    assert [rows for _, rows in beside] == [rows for _, rows in one_by_one]
    # No time is counted twice, and the loading once.
    assert sum(receipt["seconds"] for receipt, _ in beside) < seconds
    assert sum(receipt["load_seconds"] > 0 for receipt, _ in beside) == 1


def receipts_and_rows(folder: JobFolder) -> list[tuple[dict[str, float], list[tuple[object, ...]]]]:
    """Of the chunks of the only run, in order."""
    found = sorted(folder.folder.glob("out.work/*/score/*.parquet"))
    return [
        (json.loads(next(file.parent.glob(f"{file.stem}*.json")).read_text()), pl.read_parquet(file).rows())
        for file in found
    ]
