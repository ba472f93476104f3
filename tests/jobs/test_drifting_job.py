"""Jobs over files whose columns differ."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.commands.validate import validate
from batchroute.commands.verify import verify
from batchroute.config import loading
from batchroute.errors import InputError
from batchroute.pipeline.identity import identify
from batchroute.tables.types import is_id
from tests.support.jobs import JobFolder, prompts


def drifting_job(folder: Path, **settings: Any) -> JobFolder:
    """A night of two files; the second has an older and a newer column."""
    folder.mkdir(exist_ok=True)
    job = JobFolder(folder, report={}, **settings)
    job.input = folder / "in"
    job.input.mkdir()
    job.settings["input"]["uri"] = str(job.input)
    first = {"id": ["a", "b"], "prompt": prompts(2), "count": pa.array([1, 2], pa.int32()), "old": ["x", "y"]}
    second = {"id": ["c"], "prompt": pa.array(prompts(1, 2), pa.large_string()), "count": [2**40], "new": [1.5]}
    pq.write_table(pa.table(first), job.input / "1.parquet")
    pq.write_table(pa.table(second), job.input / "2.parquet")
    return job


def test_the_output_holds_the_columns_of_all_files(tmp_path: Path) -> None:
    job = drifting_job(tmp_path)
    job.run()
    answers = job.answers().sort("id")
    assert answers.columns[:5] == ["id", "prompt", "count", "old", "new"]
    expected = {"count": [1, 2, 2**40], "old": ["x", "y", None], "new": [None, None, 1.5]}
    assert answers.select("count", "old", "new").to_dict(as_series=False) == expected
    assert answers["response"].null_count() == 0
    assert not verify(str(job.output)).wrong


def test_drift_is_named_by_validate_and_in_the_log(tmp_path: Path) -> None:
    job = drifting_job(tmp_path)
    named = (
        rf"'count' is int32 and int64, read as int64; 'old' is missing in 1 of 2 files, such as {job.input}/2\.parquet"
        rf", and null there; 'new' is missing in 1 of 2 files, such as {job.input}/1\.parquet, and null there$"
    )
    (line,) = (line for line in validate(job.load()) if line.startswith("columns"))
    assert re.search(f"^columns  {named}", line)
    job.run()
    assert re.search(f"columns of the files differ: {named}", job.log, re.MULTILINE)
    only_new = drifting_job(tmp_path / "new")
    only_new.settings["output"]["table"] = {"warehouse": f"sqlite://{tmp_path}/t.db", "name": "answers"}
    only_new.settings["input"]["only_new"] = {"by": "id"}
    only_new.run()
    assert "columns of the files differ: 'count'" in only_new.log


def test_strict_refuses_other_columns_and_is_no_part_of_the_identity(tmp_path: Path) -> None:
    job = drifting_job(tmp_path)
    strict = "input.schema=strict"
    with pytest.raises(InputError, match=r"column 'prompt' is large_string in .*2\.parquet, but string in .*1\.p"):
        job.run(strict)
    assert identify(job.load(strict)) == identify(job.load())


def test_files_that_are_alike_are_read_alike(tmp_path: Path) -> None:
    job = drifting_job(tmp_path)
    (job.input / "2.parquet").unlink()
    first = job.run("input.schema=strict")
    assert job.run().manifest.run_id == first.manifest.run_id


@pytest.mark.parametrize(("column", "key"), [("prompt", "input.prompt"), ("id", "input.id")])
def test_a_file_without_prompts_or_ids_is_refused(tmp_path: Path, column: str, key: str) -> None:
    job = drifting_job(tmp_path)
    file = job.input / "2.parquet"
    pl.read_parquet(file).drop(column).write_parquet(file)
    with pytest.raises(InputError, match=rf"{key}: .*2\.parquet has no column '{column}', which other files have"):
        job.run()


def test_schema_is_of_files(tmp_path: Path) -> None:
    job = JobFolder(tmp_path)
    del job.settings["input"]["uri"]
    job.settings["input"] |= {"warehouse": "duckdb://", "query": "select 1", "schema": "strict"}
    with pytest.raises(InputError, match="schema is of files"):
        loading.load(job.path)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b"], pa.string_view()),
        pa.array([b"a", b"b"], pa.binary_view()),
        pa.array([b"a" * 16, b"b" * 16], pa.uuid()),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array([1, 2], pa.timestamp("ns")),
        pa.array([2**70, 2**71], pa.decimal256(50, 0)),
    ],
    ids=lambda column: str(column.type),
)
def test_ids_of_any_type_that_can_be_told_apart_are_checked(tmp_path: Path, column: pa.Array) -> None:
    job = JobFolder(tmp_path, report={})
    pq.write_table(pa.table({"id": column, "prompt": prompts(2)}), job.input)
    job.run()
    assert pq.read_table(job.output / "data", columns=["id"])["id"].cast(column.type).combine_chunks().equals(column)
    one = pa.table({"id": column[:1], "prompt": prompts(1)})
    pq.write_table(pa.concat_tables([one, one]), job.input)
    with pytest.raises(InputError, match="column 'id' repeats 1 ids"):
        job.run(fresh=True)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int8()), pa.struct([("a", pa.int8())]), pa.map_(pa.string(), pa.int8())], ids=str
)
def test_ids_that_cannot_be_told_apart_are_refused(tmp_path: Path, kind: pa.DataType) -> None:
    assert not is_id(kind)
    job = JobFolder(tmp_path, report={})
    pq.write_table(pa.table({"id": pa.nulls(2, kind), "prompt": prompts(2)}), job.input)
    with pytest.raises(InputError, match=r"input\.id: column 'id' is .*; an id is text, a number"):
        job.run()


def test_views_and_nested_types_come_out_as_they_went_in(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, report={})
    nested = [[["a", None], None, []], None]
    columns = {
        "id": ["1", "2"],
        "prompt": pa.array([[{"role": "user", "content": "hi there"}], []], _CHAT_OF_VIEWS),
        "views": pa.array(["x", None], pa.string_view()),
        "nested": pa.array(nested, pa.list_(pa.list_(pa.string_view()))),
        "lists": pa.array([[1], None], pa.list_view(pa.int64())),
        "number": pa.array([float("inf"), float("nan")]),
    }
    rows = pa.table(columns)
    with pq.ParquetWriter(job.input, rows.schema) as writer:  # row by row: pyarrow cannot write both at once
        for row in (0, 1):
            writer.write_table(rows.slice(row, 1))
    job.run()
    answers = pa.concat_tables([pq.read_table(part) for part in (job.output / "data").glob("*.parquet")])
    assert answers["nested"].to_pylist() == nested
    assert answers["views"].to_pylist() == ["x", None]
    assert answers["lists"].to_pylist() == [[1], None]
    assert str(answers["number"].to_pylist()) == "[inf, nan]"
    assert answers["prompt"].to_pylist() == [[{"role": "user", "content": "hi there"}], []]
    assert answers["status"].to_pylist() == ["ok", "failed"]


_CHAT_OF_VIEWS = pa.list_(pa.struct([("role", pa.string_view()), ("content", pa.string_view())]))
