"""The backend `anthropic` against a strict server, and what its requests and answers mean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from pydantic import ValidationError

from batchroute import generators
from batchroute.endings import ending_of
from batchroute.errors import InputError, StoppedError
from batchroute.generators.anthropic.messages import MessagesApi
from batchroute.generators.base import Response
from batchroute.generators.openai.generator import OpenAIGenerator
from batchroute.generators.settings import ModelSpec
from tests.support.openai_server import Fault
from tests.support.vendor_server import VendorServer


@pytest.fixture(scope="module")
def one_server() -> Iterator[VendorServer]:
    with VendorServer("anthropic") as server:
        yield server


@pytest.fixture
def server(one_server: VendorServer, monkeypatch: pytest.MonkeyPatch) -> VendorServer:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    one_server.clear_faults()
    one_server.requests.clear()
    return one_server


def spec(server: VendorServer | None = None, **settings: Any) -> ModelSpec:
    given = {"backend": "anthropic", "model": "large", "endpoint": None if server is None else server.url, **settings}
    return ModelSpec.model_validate({name: value for name, value in given.items() if value is not None})


def answers(server: VendorServer, prompts: list[Any], **settings: Any) -> list[Response]:
    protocol = MessagesApi(spec(server, **settings))
    generator = OpenAIGenerator(spec(server, **settings), waits=(0.01, 0.05), protocol=protocol)
    with closing(generator):
        return generator.generate(prompts, [0] * len(prompts))


def test_rows_are_answered_with_their_tokens_and_how_they_ended(server: VendorServer) -> None:
    short, long = answers(server, ["two words", "a prompt of six words altogether"], generation={"max_new_tokens": 5})
    assert (short.text, short.finish_reason, short.input_tokens, short.output_tokens) == (
        "echo: two words",
        "stop",
        2,
        3,
    )
    assert (long.text, long.finish_reason, long.output_tokens) == ("echo: a prompt of six", "length", 5)
    seen = server.requests[0]
    assert (seen.path, seen.body["max_tokens"]) == ("/v1/messages", 5)
    assert not {"temperature", "seed", "top_p"} & seen.body.keys()


def test_cached_and_thinking_tokens_are_counted_and_thoughts_are_no_part_of_the_answer(server: VendorServer) -> None:
    server.settings.cached_tokens, server.settings.reasoning_tokens = 2, 4
    try:
        (answer,) = answers(server, ["three words here"], reasoning="keep")
    finally:
        server.settings.cached_tokens, server.settings.reasoning_tokens = 0, 0
    assert (answer.text, answer.reasoning) == ("echo: three words here", "let me think")
    assert (answer.input_tokens, answer.cached_tokens) == (3, 2)
    assert (answer.output_tokens, answer.reasoning_tokens) == (8, 4)


def test_settings_of_the_request_have_anthropics_names(server: VendorServer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    request = MessagesApi(
        spec(
            server,
            system="be brief",
            generation={"stop": ["END"]},
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
            extra_body={"output_config": {"effort": "low"}, "thinking": {"type": "adaptive"}},
        )
    ).request([{"role": "system", "content": "and kind"}, {"role": "user", "content": "hello"}], 0)
    assert request["system"] == "be brief\n\nand kind"
    assert request["messages"] == [{"role": "user", "content": "hello"}]
    assert request["stop_sequences"] == ["END"]
    assert request["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    assert request["thinking"] == {"type": "adaptive"}


def test_images_and_calls_of_tools_are_written_as_anthropics_blocks(server: VendorServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
    prompt = [
        {"role": "user", "content": [{"type": "text", "text": "see"}, image]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "a cat"},
        {"role": "user", "content": "well?"},
    ]
    assert answers(server, [prompt])[0].text == "echo: well?"
    seen = server.requests[-1].body["messages"]
    assert seen[0]["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "aGk="}
    assert seen[1]["content"] == [{"type": "tool_use", "id": "t1", "name": "look", "input": {"x": 1}}]
    assert seen[2] == {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a cat"}],
    }


def test_a_call_of_a_tool_is_kept_in_openais_form(server: VendorServer) -> None:
    body = {
        "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    protocol = MessagesApi(spec(server, extra_body={"tools": [{"name": "f", "input_schema": {"type": "object"}}]}))
    found = protocol.response(body, protocol.request("x", 0), 1)
    assert isinstance(found, Response)
    assert found.finish_reason == "tool_calls"
    (call,) = json.loads(found.tool_calls or "")
    assert call["function"] == {"name": "f", "arguments": '{"a": 1}'}


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        ("end_turn", "ended"),
        ("max_tokens", "cut"),
        ("stop_sequence", "ended"),
        ("tool_use", "tool call"),
        ("pause_turn", "tool call"),
        ("refusal", "refused"),
        ("model_context_window_exceeded", "cut"),
    ],
)
def test_every_stop_reason_of_the_interface_is_known(reason: str, ending: str) -> None:
    assert ending_of(reason) == ending


def test_errors_of_a_row_and_errors_that_pass(server: VendorServer) -> None:
    server.faults = {"busy": ["529", "429"], "odd": ["400"], "long": [Fault("400", message="prompt is too long")]}
    server.faults["evil"] = ["refusal"]
    busy, odd, long, evil = answers(server, ["busy", "odd", "long", "evil"])
    assert (busy.text, busy.attempts) == ("echo: busy", 3)
    assert [one.error_type for one in (odd, long, evil)] == ["bad_request", "too_long", "refused"]


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("402", StoppedError, "has no quota left"),
        (Fault("400", message="Your credit balance is too low to access the API."), StoppedError, "has no quota left"),
        ("404", InputError, "has no model 'large'"),
    ],
)
def test_what_every_row_would_meet_ends_the_run(
    server: VendorServer, fault: Any, error: type[Exception], words: str
) -> None:
    server.faults = {"": [fault]}
    with pytest.raises(error, match=words):
        answers(server, ["a"])


def test_a_wrong_key_is_one_sentence(server: VendorServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-wrong")
    with pytest.raises(
        InputError, match=r"^127\S+ refuses the key in the environment variable ANTHROPIC_API_KEY: HTTP 401: invalid x-"
    ) as found:
        answers(server, ["a"])
    assert "sk-wrong" not in str(found.value)


def test_a_missing_key_is_asked_for_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")
    with pytest.raises(InputError, match="needs a key: set the environment variable ANTHROPIC_API_KEY"):
        generators.check(spec())


def test_the_older_version_takes_sampling_and_its_newer_models_tell_that_they_do_not(server: VendorServer) -> None:
    old = {"headers": {"anthropic-version": "2023-06-01"}, "generation": {"temperature": 0.5, "top_k": 3}}
    assert answers(server, ["a"], **old)[0].text == "echo: a"
    assert (server.requests[-1].body["temperature"], server.requests[-1].body["top_k"]) == (0.5, 3)
    server.faults = {"b": [Fault("400", message="`temperature` is deprecated for this model.")]}
    assert answers(server, ["b"], **old)[0].text == "echo: b"
    assert "temperature" not in server.requests[-1].body


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"generation": {"temperature": 0.7}}, "generation.temperature: Anthropic's API takes none since version 2026"),
        ({"generation": {"temperature": 1.0, "top_k": 4}}, "generation.temperature: Anthropic's API takes none"),
        ({"generation": {"seed": 3}}, "generation.seed: Anthropic's API has no seed"),
        ({"response_format": {"type": "json_object"}}, "response_format: Anthropic's API takes a json_schema"),
        ({"confidence": {"logprobs": True}}, "confidence asks for no signal that the backend anthropic gives"),
        ({"confidence": {"samples": 3}}, "the backend anthropic takes no extra samples"),
        ({"extra_body": {"n": 2}}, "n is 2, but one answer of each row is kept"),
        ({"length_key": "max_completion_tokens"}, "length_key is a setting of the backend"),
    ],
)
def test_what_the_api_has_no_field_for_is_refused_with_the_job_file(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        spec(**settings)
