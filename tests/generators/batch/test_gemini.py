"""Gemini's contents and batches without a job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from batchroute.endings import ending_of
from batchroute.errors import InputError
from batchroute.generators.base import Response
from batchroute.generators.batch.gemini import GeminiBatches
from batchroute.generators.batch.gemini_content import ContentApi
from batchroute.generators.openai.failures import Failure
from batchroute.generators.settings import ModelSpec
from tests.support.openai_server import Fault
from tests.support.vendor_server import VendorServer


@pytest.fixture(scope="module")
def one_server() -> Iterator[VendorServer]:
    with VendorServer("gemini") as server:
        yield server


@pytest.fixture
def server(one_server: VendorServer, monkeypatch: pytest.MonkeyPatch) -> VendorServer:
    monkeypatch.setenv("GEMINI_API_KEY", "sk-test")
    one_server.clear_faults()
    return one_server


def spec(server: VendorServer, **settings: Any) -> ModelSpec:
    given = {"backend": "batch", "provider": "gemini", "model": "large", "endpoint": server.url, "timeout": 2}
    return ModelSpec.model_validate({**given, **settings})


def test_settings_of_the_request_have_geminis_names(server: VendorServer) -> None:
    schema = {"type": "object", "properties": {}}
    protocol = ContentApi(
        spec(
            server,
            model="models/large",
            system="be brief",
            generation={"max_new_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "stop": ["END"]},
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
            extra_body={"generationConfig": {"thinkingConfig": {"thinkingLevel": "low"}, "topK": None}, "labels": {}},
        )
    )
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    call = {"id": "t", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
    request = protocol.request(
        [
            {"role": "user", "content": [{"type": "text", "text": "see"}, image]},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t", "content": "a cat"},
        ],
        1 << 40,
    )
    assert protocol.path == "/models/large:generateContent"
    assert request["systemInstruction"] == {"parts": [{"text": "be brief"}]}
    assert request["generationConfig"] == {
        "maxOutputTokens": 9, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"], "seed": 0,
        "responseMimeType": "application/json", "responseJsonSchema": schema,
        "thinkingConfig": {"thinkingLevel": "low"},
    }  # fmt: skip
    assert request["contents"] == [
        {"role": "user", "parts": [{"text": "see"}, {"inlineData": {"mimeType": "image/png", "data": "aGk="}}]},
        {"role": "model", "parts": [{"functionCall": {"name": "look", "args": {"x": 1}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "t", "response": {"result": "a cat"}}}]},
    ]
    assert request["labels"] == {}


def read(server: VendorServer, answer: Any, **settings: Any) -> Response | Failure:
    protocol = ContentApi(spec(server, **settings))
    return protocol.response(answer, protocol.request("a prompt", 0), 1)


def test_thoughts_calls_and_counts_of_an_answer(server: VendorServer) -> None:
    parts = [{"text": "hm", "thought": True}, {"text": "yes"}, {"functionCall": {"name": "f", "args": {"a": 1}}}]
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 2, "thoughtsTokenCount": 3, "cachedContentTokenCount": 4}
    answer = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}], "usageMetadata": usage}
    found = read(server, answer, reasoning="keep", extra_body={"tools": [{"functionDeclarations": []}]})
    assert isinstance(found, Response)
    assert (found.text, found.reasoning) == ("yes", "hm")
    assert json.loads(found.tool_calls or "")[0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert (found.input_tokens, found.output_tokens, found.cached_tokens, found.reasoning_tokens) == (5, 5, 4, 3)


@pytest.mark.parametrize(
    ("answer", "error_type"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}}, "refused"),
        ({"candidates": [{"finishReason": "SAFETY"}]}, "refused"),
        ({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}, "unfinished"),
        ({"candidates": [{"content": {"parts": []}}]}, "api_error"),
        ({"candidates": []}, "api_error"),
        ({}, "api_error"),
    ],
)
def test_answers_without_a_text(server: VendorServer, answer: Any, error_type: str) -> None:
    assert read(server, answer).error_type == error_type


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        ("STOP", "ended"),
        ("MAX_TOKENS", "cut"),
        ("SAFETY", "refused"),
        ("RECITATION", "refused"),
        ("MODEL_ARMOR", "refused"),
        ("OTHER", "failed"),
        ("TOO_MANY_TOOL_CALLS", "failed"),
        ("ESCALATION", "unknown"),
    ],
)
def test_finish_reasons_of_the_interface(reason: str, ending: str) -> None:
    assert ending_of(reason) == ending


def test_a_parameter_that_a_model_refuses_is_left_out_from_then_on(server: VendorServer) -> None:
    api = GeminiBatches(spec(server), 2.0)
    server.faults = {"longest": [Fault("400", message="temperature is not supported by this model.")]}
    assert api.preflight("the longest prompt", "short") is None
    assert "without temperature" in api.notes[0]
    line = json.loads(api.line("row-1", "a", 0))
    assert line["key"] == "row-1"
    assert "temperature" not in line["request"]["generationConfig"]
    assert server.requests[-1].body["generationConfig"]["maxOutputTokens"] == 1
    api.close()


def test_a_key_goes_to_no_other_host_and_a_missing_batch_is_named(server: VendorServer) -> None:
    api = GeminiBatches(spec(server), 2.0)
    # The server names another host for the second part of an upload.
    key = api.prepare("in.jsonl", api.line("row-1", "a", 0))
    batch = api.create(key, {})
    assert key.startswith("files/")
    assert batch.key == key
    assert batch.requests == 1
    with pytest.raises(InputError, match=r"knows no batch batches/x any more"):
        api.retrieve("batches/x")
    assert api.cancel_command(batch.id).endswith(f"/v1beta/{batch.id}:cancel")
    assert "sk-test" not in api.cancel_command(batch.id)
    api.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"generation": {"stop": list("abcdef")}}, "generation.stop: Gemini's API takes 5 strings, and there are 6"),
        ({"length_key": "max_tokens"}, "length_key: Gemini's API calls the limit maxOutputTokens"),
        ({"confidence": {"logprobs": True}}, "confidence.logprobs: batches of gemini bring no log-probabilities"),
        ({"confidence": {"samples": 2}}, "the backend batch takes no extra samples"),
        ({"provider": "mistral", "length_key": "max_completion_tokens"}, "the API of mistral has no max_completion"),
        ({"provider": "bedrock"}, "Input should be 'openai', 'anthropic', 'gemini' or 'mistral'"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_job_file(
    server: VendorServer, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        spec(server, **settings)
