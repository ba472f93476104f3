"""`batchroute export`: lines that a reader of OpenAI's batch output takes for its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from openai.types.chat import ChatCompletion

from batchroute.commands.export import export
from batchroute.errors import InputError
from tests.support.command import run
from tests.support.jobs import JobFolder


def requests(path: Path, texts: list[str | None]) -> None:
    """A file of OpenAI's Batch API."""
    lines = [
        {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "gpt", "messages": [{"role": "user", "content": text}], "max_tokens": 9},
        }
        for number, text in enumerate(texts)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    requests(tmp_path / "in.jsonl", ["say grün", None, "say blue twice"])
    spec = {"uri": str(tmp_path / "in.jsonl"), "id": "custom_id", "prompt": "body.messages"}
    job = JobFolder(tmp_path, input=spec, output={"uri": str(tmp_path / "out"), "prefix": "a_"}, report={})
    job.run()
    return job


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_batch_requests_come_back_as_a_batch_output(job: JobFolder, tmp_path: Path) -> None:
    assert export(str(job.output), str(tmp_path / "out.jsonl")) == 3
    first, failed, last = lines_of(tmp_path / "out.jsonl")
    assert [line["custom_id"] for line in (first, failed, last)] == ["request-0", "request-1", "request-2"]
    assert failed["response"] is None
    assert failed["error"] == {"code": "bad_chat", "message": "message 0 has no content"}
    completion = ChatCompletion.model_validate(first["response"]["body"])
    assert completion.choices[0].message.content == "say grün"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 4
    assert (first["error"], first["response"]["status_code"]) == (None, 200)
    assert len({line["id"] for line in (first, failed, last)}) == 3
    assert not (tmp_path / "out.jsonl.part").exists()


def test_rows_without_an_id_are_known_by_their_number(tmp_path: Path) -> None:
    frame = pl.DataFrame({"prompt": ["a b", "c d"]})
    job = JobFolder(tmp_path, frame, input={"uri": str(tmp_path / "in.parquet")}, report={})
    job.run()
    ended = run("export", str(job.output), "--format", "jsonl")
    assert ended.code == 0, ended.err
    assert [json.loads(line)["custom_id"] for line in ended.out.splitlines()] == ["row-0", "row-1"]


def test_what_is_not_committed_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not committed: it has no manifest"):
        export(str(tmp_path / "out"), None)


def test_a_file_that_cannot_be_written_is_named(job: JobFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--output .*nowhere/a\.jsonl cannot be written: No such file"):
        export(str(job.output), str(tmp_path / "nowhere" / "a.jsonl"))
