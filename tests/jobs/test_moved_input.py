"""Inputs that were copied again, changed or damaged since the run began, and outputs that lie among the input."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from batchroute.errors import InputError, StoppedError
from tests.support.jobs import JobFolder, table

ROWS = 200


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path, table(ROWS))


def stop_early(folder: JobFolder) -> None:
    with pytest.raises(StoppedError, match="max_cost"):
        folder.run("max_cost=0.000001")


def copy_again(path: Path) -> None:
    """The same bytes in a new file with another time."""
    shutil.copy(path, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)
    os.utime(path, (1, 1))


def test_a_run_goes_on_with_a_copy_of_its_input(folder: JobFolder) -> None:
    stop_early(folder)
    copy_again(folder.input)
    assert not folder.run().was_done
    assert folder.answers()["id"].to_list() == [f"row-{i}" for i in range(ROWS)]
    copy_again(folder.input)
    os.utime(folder.input, (2, 2))
    assert folder.run().was_done


def test_the_run_is_the_one_that_was_begun(folder: JobFolder) -> None:
    stop_early(folder)
    begun = os.listdir(f"{folder.output}.work")
    copy_again(folder.input)
    folder.run()
    assert os.listdir(f"{folder.output}.work") == begun


def test_a_committed_run_is_known_without_its_work_folder(folder: JobFolder) -> None:
    folder.settings["output"]["keep_work"] = False
    folder.run()
    copy_again(folder.input)
    assert folder.run().was_done


def test_one_byte_that_differs_is_another_input(folder: JobFolder) -> None:
    table(ROWS).write_parquet(folder.input, compression="uncompressed")
    stop_early(folder)
    data = folder.input.read_bytes()
    changed = data.replace(b"answer 5 ", b"Answer 5 ", 1)
    assert changed != data
    folder.input.write_bytes(changed)
    os.utime(folder.input, (1, 1))
    with pytest.raises(InputError, match=r"another input: .*in\.parquet has changed"):
        folder.run()


def test_a_run_of_an_earlier_version_knows_no_contents(folder: JobFolder) -> None:
    stop_early(folder)
    (path,) = Path(f"{folder.output}.work").glob("*/run.json")
    begun = json.loads(path.read_text())
    assert begun["files"][0].pop("content").startswith("sha256:")
    path.write_text(json.dumps(begun))
    time = folder.input.stat().st_mtime_ns
    copy_again(folder.input)
    with pytest.raises(InputError, match="has changed"):
        folder.run()
    os.utime(folder.input, ns=(time, time))
    assert not folder.run().was_done


def test_failed_rows_are_tried_again_on_a_copy(folder: JobFolder) -> None:
    table(4).with_columns(prompt=pl.Series(["a", "", "b", None])).write_parquet(folder.input)
    folder.run()
    copy_again(folder.input)
    assert folder.run(retry_failed=True).report.rows["failed"] == 2


@pytest.mark.parametrize("most_bytes", [1 << 20, 0], ids=["by its content", "by its footer"])
def test_a_copy_in_a_bucket_is_known(folder: JobFolder, monkeypatch: pytest.MonkeyPatch, most_bytes: int) -> None:
    monkeypatch.setattr("batchroute.tables.files.MOST_BYTES", most_bytes)
    filesystem, data = MemoryFileSystem(), folder.input.read_bytes()
    filesystem.pipe_file("/in/a.parquet", data)
    folder.settings["input"]["uri"] = "memory://in"
    stop_early(folder)
    filesystem.pipe_file("/in/a.parquet", data)
    assert not folder.run().was_done
    table(ROWS).reverse().write_parquet(folder.input)
    filesystem.pipe_file("/in/a.parquet", folder.input.read_bytes())
    with pytest.raises(InputError, match="has changed"):
        folder.run()


@pytest.fixture(autouse=True)
def _no_memory() -> Iterator[None]:
    yield
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("pattern", ["**/*.parquet", "*/*/*.parquet", "answers.work/**/*.parquet", "[a-p]*/**"])
def test_a_glob_over_the_output_is_refused_before_the_first_row(folder: JobFolder, pattern: str) -> None:
    (folder.folder / "lake" / "prompts" / "x").mkdir(parents=True)
    folder.input.rename(folder.folder / "lake" / "prompts" / "x" / "a.parquet")
    (folder.folder / "lake" / "answers.work" / "x").mkdir(parents=True)
    shutil.copy(folder.folder / "lake/prompts/x/a.parquet", folder.folder / "lake/answers.work/x/a.parquet")
    folder.settings["input"]["uri"] = f"{folder.folder}/lake/{pattern}"
    folder.settings["output"]["uri"] = f"{folder.folder}/lake/answers"
    with pytest.raises(InputError, match=r"lie in one another|matches files of output\.uri"):
        folder.run()
    assert not (folder.folder / "lake" / "answers").exists()


def test_a_linked_way_to_the_input_is_seen(folder: JobFolder) -> None:
    (folder.folder / "days").mkdir()
    folder.input.rename(folder.folder / "days" / "a.parquet")
    (folder.folder / "link").symlink_to("days")
    folder.settings["input"]["uri"] = str(folder.folder / "days")
    folder.settings["output"]["uri"] = str(folder.folder / "link" / "out")
    with pytest.raises(InputError, match="lie in one another"):
        folder.run()


def test_a_damaged_page_is_named_with_its_column_and_row_group(folder: JobFolder) -> None:
    table(ROWS).write_parquet(folder.input, row_group_size=50, compression="snappy")
    chunk = pq.read_metadata(folder.input).row_group(2).column(1)
    data = bytearray(folder.input.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start + 8 : start + chunk.total_compressed_size] = b"\xff" * (chunk.total_compressed_size - 8)
    folder.input.write_bytes(data)
    with pytest.raises(InputError, match=r"in\.parquet is damaged: column 'prompt' of row group 2 cannot be read"):
        folder.run()
