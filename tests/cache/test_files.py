"""The files of a cache, on disk and in a filesystem of fsspec."""

from __future__ import annotations

import datetime
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batchroute.cache.files import KEY, CacheFiles, Keys, column_of, expired, marked_days, pairs_of
from batchroute.cache.settings import CacheSpec

TODAY = datetime.date(2026, 3, 1)


@pytest.fixture(params=["disk", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> CacheFiles:
    uri = str(tmp_path / "cache") if request.param == "disk" else f"memory://{uuid.uuid4().hex}/cache"
    return CacheFiles(CacheSpec(uri=uri), NOTES.append)


NOTES: list[str] = []


def rows(*responses: str) -> pa.Table:
    return pa.table([column_of(keys(len(responses))), pa.array(responses)], [KEY.name, "response"])


def keys(count: int) -> Keys:
    return np.arange(2 * count, dtype=np.uint64).reshape(-1, 2)


def test_a_file_gives_its_keys_and_its_rows(files: CacheFiles) -> None:
    files.put("m-1/2026-03-01", "run", "small", rows("one", "two"))
    (name,) = files.names("m-1", 30, TODAY)
    assert name.startswith("m-1/2026-03-01/run-small-")
    found = files.keys(name)
    table = files.rows(name)
    assert found is not None
    assert table is not None
    assert found[0].tolist() == keys(2).tolist()
    assert found[1] > 0
    assert table["response"].to_pylist() == ["one", "two"]


def test_the_same_answers_are_put_once_and_other_answers_next_to_them(files: CacheFiles) -> None:
    for _ in range(2):
        files.put("m-1/2026-03-01", "run", "small", rows("one"))
    files.put("m-1/2026-03-01", "run", "small", rows("another"))
    assert len(files.names("m-1", 30, TODAY)) == 2


def test_days_that_are_too_old_are_not_listed_and_are_expired(files: CacheFiles) -> None:
    for day in ("2026-01-29", "2026-01-30", "2026-02-28", "2026-03-01"):
        files.put(f"m-1/{day}", "run", "small", rows(day))
    files.folder.put_new("m-1/notes/README.txt", b"somebody's own")
    assert [name.split("/")[1] for name in files.names("m-1", 30, TODAY)] == ["2026-03-01", "2026-02-28", "2026-01-30"]
    assert files.names("m-2", 30, TODAY) == []
    assert expired(files.folder, 30, TODAY) == ["m-1/2026-01-29"]


def test_a_cache_is_kept_as_long_as_the_job_that_keeps_most(files: CacheFiles) -> None:
    assert marked_days(files.folder) is None
    for days in (30, 7, 30):
        files.mark(days)
    assert marked_days(files.folder) == 30


def test_a_file_that_is_gone_is_empty_and_a_damaged_one_is_told(files: CacheFiles) -> None:
    NOTES.clear()
    gone = "m-1/2026-03-01/run-small-00-9.parquet"
    assert files.keys(gone) is files.rows(gone) is None
    assert NOTES == []
    files.folder.put_new(gone, b"no parque")
    assert files.keys(gone) is files.rows(gone) is None
    assert [f"{files.folder}/{gone} is damaged and counts as empty: remove it"] * 2 == NOTES


def test_keys_of_a_slice_and_of_several_chunks() -> None:
    column = column_of(keys(5))
    chunked = pa.chunked_array([column.slice(1, 2), column.slice(4)])
    assert pairs_of(chunked).tolist() == keys(5)[[1, 2, 4]].tolist()
    assert pairs_of(pa.chunked_array([column.slice(3)])).tolist() == keys(5)[3:].tolist()
    assert pairs_of(pa.chunked_array([], KEY.type)).tolist() == []
