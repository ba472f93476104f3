"""Jobs whose answers are JSON by a schema: typed columns beside the text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from batchroute.config.job import Job
from batchroute.errors import InputError
from tests.support.jobs import JobFolder, table
from tests.support.openai_server import OpenAIServer

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string"}, "number": {"type": "integer"}},
    "required": ["colour"],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    def answer(body: dict[str, Any]) -> str:
        # The small model's answers are fenced, and the large one's are none.
        return '```json\n{"colour": "red", "number": 7}\n```' if body["model"] == "small" else "red"

    with OpenAIServer(answer=answer, key=None) as found:
        yield found


def job_of(folder: Path, server: OpenAIServer, columns: Any) -> JobFolder:
    folder.mkdir(exist_ok=True)
    job = JobFolder(folder, table(8), policy={"small_share": "50%"}, max_failed="100%")
    for side in ("small", "large"):
        job.settings["models"][side] = {
            "backend": "openai", "model": side, "endpoint": server.url, "response_format": FORMAT,
        }  # fmt: skip
    job.settings["output"]["columns"] = columns
    return job


def test_each_key_has_a_column_and_failed_rows_have_nulls(tmp_path: Path, server: OpenAIServer) -> None:
    job = job_of(tmp_path / "flat", server, True)
    job.run()
    frame = job.answers()
    assert frame.columns[-2:] == ["colour", "number"]
    assert frame.schema["number"] == pl.Int64
    good = frame.filter(pl.col("status") == "ok")
    assert set(good["route"]) == {"small"}
    assert set(good["colour"]) == {"red"}
    assert set(good["number"]) == {7}
    assert frame.filter(pl.col("status") == "failed")["colour"].null_count() == len(frame) - len(good) > 0
    nested = job_of(tmp_path / "struct", server, "struct")
    nested.run()
    assert nested.answers()["json"].struct.field("number").to_list() == frame["number"].to_list()


def test_a_key_that_is_a_column_already_is_named(tmp_path: Path, server: OpenAIServer) -> None:
    job = job_of(tmp_path, server, True)
    table(8).with_columns(colour=pl.lit("x")).write_parquet(job.input)
    with pytest.raises(InputError, match=r"columns that the output adds: colour; set output\.prefix"):
        job.run()


def test_columns_need_one_schema_of_both_models(tmp_path: Path, server: OpenAIServer) -> None:
    job = job_of(tmp_path, server, True)
    del job.settings["models"]["large"]["response_format"]
    with pytest.raises(ValidationError, match=r"output\.columns needs to know the keys"):
        Job.model_validate(job.settings)
