"""Jobs whose model may call tools: the calls are in a column of their own, and nothing empty passes as an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import JobFolder, table
from tests.support.openai_server import OpenAIServer

CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
CALLED = {
    "choices": [{"message": {"content": None, "tool_calls": [CALL]}, "finish_reason": "tool_calls"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with OpenAIServer(response=CALLED, strict=False) as found:
        yield found


def job_of(folder: Path, server: OpenAIServer, **small: Any) -> JobFolder:
    job = JobFolder(folder, table(6), policy={"threshold": 0}, max_failed="100%")
    job.settings["models"]["small"] = {
        "backend": "openai", "model": "small", "endpoint": server.url, "price": {"input": 1, "output": 1}, **small,
    }  # fmt: skip
    return job


def test_calls_are_kept_where_the_job_gives_tools(tmp_path: Path, server: OpenAIServer) -> None:
    job = job_of(tmp_path, server, extra_body={"tools": TOOLS}, on_failure="large")
    job.run("policy.threshold=0.0")
    frame = job.answers()
    assert frame.columns[-1] == "tool_calls"
    assert set(frame["status"]) == {"ok"}
    assert (set(frame["response"]), set(frame["finish_reason"])) == ({""}, {"tool_calls"})
    assert [json.loads(calls) for calls in frame["tool_calls"]] == [[CALL]] * 6
    assert set(frame["route"]) == {"small"}


def test_a_call_that_nobody_asked_for_is_no_answer_and_is_paid_for(tmp_path: Path, server: OpenAIServer) -> None:
    job = job_of(tmp_path, server)
    job.run()
    frame = job.answers()
    assert "tool_calls" not in frame.columns
    assert set(frame["error_type"]) == {"tool_call"}
    assert set(frame["output_tokens"]) == {7}
    assert (frame["cost"] > 0).all()


def test_a_call_that_nobody_asked_for_goes_on_to_the_large_model(tmp_path: Path, server: OpenAIServer) -> None:
    job = job_of(tmp_path, server, on_failure="large")
    job.run()
    frame = job.answers()
    assert (set(frame["status"]), set(frame["route"])) == ({"ok"}, {"small→large"})
