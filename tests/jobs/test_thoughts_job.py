"""Jobs whose model thinks before it answers: thoughts are no part of the answer, and have a column of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import JobFolder, table
from tests.support.openai_server import OpenAIServer

USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 4}}


def answer(content: str | None, reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": reason}], "usage": USAGE}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with OpenAIServer(strict=False) as found:
        yield found


def job_of(folder: Path, server: OpenAIServer, **small: Any) -> JobFolder:
    folder.mkdir(exist_ok=True)
    job = JobFolder(folder, table(6), policy={"threshold": 0}, max_failed="100%")
    job.settings["models"]["small"] = {"backend": "openai", "model": "small", "endpoint": server.url, **small}
    return job


@pytest.mark.parametrize(
    "given",
    [
        answer('{"a": 1}', reasoning_content="Is it 1?"),
        answer('<think>\nIs it 1?\n</think>\n\n{"a": 1}'),
        answer('Is it 1?\n</think>\n{"a": 1}'),
        {
            **answer(None),
            "choices": [
                {
                    "message": {
                        "content": [
                            {"type": "thinking", "thinking": [{"type": "text", "text": "Is it 1?"}]},
                            {"type": "text", "text": '{"a": 1}'},
                        ]
                    },
                    "finish_reason": "stop",
                }
            ],
        },
    ],
)
def test_thoughts_are_in_a_column_and_a_check_sees_the_answer_alone(
    tmp_path: Path, server: OpenAIServer, given: dict[str, Any]
) -> None:
    server.settings.response = given
    job = job_of(tmp_path, server, reasoning="keep", response_format={"type": "json_object"})
    job.run()
    frame = job.answers()
    assert frame.columns[-1] == "reasoning"
    assert set(frame.filter(frame["route"] == "small")["response"]) == {'{"a": 1}'}
    assert set(frame.filter(frame["route"] == "small")["reasoning"]) == {"Is it 1?"}
    assert "reasoning: keep" not in job.log


def test_thoughts_are_left_out_with_a_note(tmp_path: Path, server: OpenAIServer) -> None:
    server.settings.response = answer("1", reasoning_content="Is it 1?")
    job = job_of(tmp_path, server)
    job.run()
    assert "reasoning" not in job.answers().columns
    assert job.log.count("reasoning: keep") == 1


def test_an_answer_that_was_lost_to_thinking_goes_on_to_the_large_model(tmp_path: Path, server: OpenAIServer) -> None:
    server.settings.response = answer("", "length", reasoning_content="Is it 1? Or")
    job = job_of(tmp_path, server, on_failure="large")
    job.run()
    assert set(job.answers()["route"]) == {"small→large"}
    lost = job_of(tmp_path / "lost", server)
    lost.run()
    assert set(lost.answers()["error_type"]) == {"unfinished"}


def test_a_field_that_is_null_is_not_sent(tmp_path: Path, server: OpenAIServer) -> None:
    server.settings.response = answer("1")
    job = job_of(tmp_path, server, extra_body={"temperature": None, "reasoning_effort": "low"})
    job.run()
    bodies = [seen.body for seen in server.requests]
    assert bodies
    assert all("temperature" not in body and body["reasoning_effort"] == "low" for body in bodies)
