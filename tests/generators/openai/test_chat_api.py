"""What is sent for a prompt, and what an answer means for its row; no server is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchroute.generators.base import Response
from batchroute.generators.openai.chat_api import ChatApi
from batchroute.generators.openai.failures import Failure
from tests.generators.openai.openai_generators import spec

CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"q": "Zürich"}'}}
TOOLS = {"tools": [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")


def answer(message: Any, reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], **more}


def response(body: Any, **settings: Any) -> Response | Failure:
    protocol = ChatApi(spec(**settings))
    return protocol.response(body, protocol.request("one two", 1), attempts=2)


def test_a_greedy_request_has_no_seed_and_no_sampling() -> None:
    assert ChatApi(spec()).request("a prompt", 7) == {
        "model": "small",
        "messages": [{"role": "user", "content": "a prompt"}],
        "max_tokens": 256,
        "temperature": 0.0,
    }


def test_a_seed_that_was_asked_for_is_sent_though_greedy() -> None:
    assert ChatApi(spec(generation={"seed": 5})).request("a", 7)["seed"] == 5


def test_sampling_is_sent_with_the_rows_own_seed_in_31_bits() -> None:
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop": ["a", "b"], "max_new_tokens": 3}
    found = ChatApi(spec(generation=sampling, response_format=SCHEMA, extra_body={"min_p": 0.1})).request("x", 2**40)
    del found["messages"]
    assert found == {
        "model": "small",
        "max_tokens": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop": ["a", "b"],
        "seed": 2**40 % 2**31,
        "response_format": SCHEMA,
        "min_p": 0.1,
    }


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"endpoint": None}, "max_completion_tokens"),
        ({"endpoint": None, "length_key": "max_tokens"}, "max_tokens"),
        ({"length_key": "max_completion_tokens"}, "max_completion_tokens"),
    ],
)
def test_the_limit_has_the_name_that_the_endpoint_knows(settings: dict[str, Any], name: str) -> None:
    found = ChatApi(spec(**settings)).request("a", 0)
    assert {key for key in found if key.startswith("max_")} == {name}


def test_extra_fields_have_the_last_word() -> None:
    assert ChatApi(spec(extra_body={"temperature": 1})).request("a", 0)["temperature"] == 1


def test_system_message_and_template_are_put_around_the_prompt() -> None:
    protocol = ChatApi(spec(system="Be brief.", template="Q: {prompt} A:"))
    system = {"role": "system", "content": "Be brief."}
    assert protocol.request("why {x}?", 0)["messages"] == [system, {"role": "user", "content": "Q: why {x}? A:"}]
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert protocol.request(chat, 0)["messages"] == [system, *chat[:2], {"role": "user", "content": "Q: c A:"}]


def test_what_a_request_may_take_is_its_prompt_and_all_new_tokens() -> None:
    protocol = ChatApi(spec(generation={"max_new_tokens": 100}))
    assert protocol.tokens(protocol.request("x" * 40, 0)) == 4 + 10 + 100


def test_usage_is_the_servers_with_cached_and_reasoning_tokens() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    assert response(answer({"content": "text"}, usage=usage)) == Response(
        "text", "stop", 9, 7, attempts=2, cached_tokens=4, reasoning_tokens=5
    )
    bare = {"prompt_tokens": 9, "completion_tokens": 7, "prompt_tokens_details": None}
    assert response(answer({"content": "text"}, usage=bare)) == Response("text", "stop", 9, 7, attempts=2)


@pytest.mark.parametrize("count", [-1, "5", 10**20, None, ["x"], 0])
def test_counts_that_make_no_sense_are_our_own_and_said_to_be(count: Any) -> None:
    good = {"prompt_tokens": 9, "completion_tokens": 7}
    found = response(answer({"content": "12345678"}, usage={**good, "completion_tokens": count}))
    assert found == Response("12345678", "stop", 9, 2, attempts=2, estimated=True)
    found = response(answer({"content": "12345678"}, usage={**good, "prompt_tokens": count}))
    assert found == Response("12345678", "stop", 4 + 2, 7, attempts=2, estimated=True)


def test_what_a_model_thought_and_called_counts_where_the_server_does_not() -> None:
    message = {"content": "1234", "reasoning_content": "x" * 40, "tool_calls": [CALL]}
    found = response(answer(message), extra_body=TOOLS)
    assert isinstance(found, Response)
    assert found.output_tokens == 1 + 10 + -(-len(json.dumps([CALL], ensure_ascii=False).encode()) // 4)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, "many"])
def test_without_usage_tokens_are_estimated_and_said_to_be(usage: Any) -> None:
    found = response(answer({"content": "12345678"}, usage=usage))
    assert found == Response("12345678", "stop", 4 + 2, 2, attempts=2, estimated=True)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None}, ""),
        ({}, ""),
        ({"content": [{"type": "text", "text": "a "}, {"type": "thinking", "thinking": "?"}, {"type": "text"}]}, "a "),
        ({"content": "a", "refusal": None}, "a"),
    ],
)
def test_an_answer_is_its_text(message: Any, text: str) -> None:
    found = response(answer(message))
    assert isinstance(found, Response)
    assert (found.text, found.error_type) == (text, None)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("stop", "stop"), ("length", "length"), ("eos", "stop"), (None, "stop"), ("MAX_TOKENS", "length"), ("", "stop")],
)
def test_an_answer_says_why_it_ended(reason: str | None, expected: str) -> None:
    found = response(answer({"content": "a"}, reason))
    assert isinstance(found, Response)
    assert found.finish_reason == expected


def test_stop_strings_end_a_text_where_the_server_did_not() -> None:
    found = response(answer({"content": "one\ntwo END"}, "length"), generation={"stop": ["END", "\n"]})
    assert isinstance(found, Response)
    assert (found.text, found.finish_reason) == ("one", "stop")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (answer({"content": None, "refusal": "I cannot."}), "the model refused to answer"),
        (answer({"content": "half an"}, "content_filter"), "a filter held the answer back"),
        (answer({}, "PROHIBITED_CONTENT"), "a filter held the answer back"),
    ],
)
def test_a_refusal_is_no_answer_but_is_paid_for(body: dict[str, Any], words: str) -> None:
    found = response({**body, "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    assert found == Response(None, None, 3, 2, "refused", words, attempts=2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<html>", "the answer is no JSON object"),
        (None, "the answer is no JSON object"),
        ([], "the answer is no JSON object"),
        (7, "the answer is no JSON object"),
        ({"choices": {"0": "x"}}, "the answer has no choices"),
        ({"choices": [{"message": {}, "finish_reason": ""}]}, "the answer is empty and does not say why it ended"),
        (
            answer({"content": "half"}, "insufficient_system_resource"),
            "the endpoint broke off the answer: insufficient_system_resource",
        ),
        (answer({"content": "half"}, "abort"), "the endpoint broke off the answer: abort"),
        ({}, "the answer has no choices"),
        ({"choices": []}, "the answer has no choices"),
        ({"choices": [None]}, "the answer has no choices"),
        ({"choices": [{"text": "of another API"}]}, "the answer has no message"),
    ],
)
def test_what_is_no_chat_completion_may_pass(body: Any, words: str) -> None:
    assert response(body) == Failure("transient", "api_error", words)


@pytest.mark.parametrize("reason", ["half_past_four", "MALFORMED_FUNCTION_CALL", "OTHER", 7])
def test_an_answer_that_ended_in_no_known_way_fails_with_the_word_and_is_paid_for(reason: Any) -> None:
    found = response(answer({"content": "half"}, reason, usage={"prompt_tokens": 3, "completion_tokens": 2}))
    words = f"the answer ended for a reason that is no success: {reason}"
    assert found == Response("half", None, 3, 2, "unfinished", words, attempts=2)
    assert found.answered


@pytest.mark.parametrize("message", [{"content": None, "tool_calls": [CALL]}, {"content": "", "tool_calls": [CALL]}])
@pytest.mark.parametrize("reason", ["tool_calls", "stop", "tool_use"])
def test_calls_of_tools_are_kept_where_the_job_gives_some_and_are_no_answer_elsewhere(
    message: Any, reason: str
) -> None:
    found = response(answer(message, reason), extra_body=TOOLS)
    assert isinstance(found, Response)
    assert (found.text, found.finish_reason, found.error_type) == ("", "tool_calls", None)
    assert json.loads(found.tool_calls or "") == [CALL]
    found = response(answer(message, reason))
    assert isinstance(found, Response)
    assert (found.text, found.finish_reason, found.error_type, found.tool_calls) == (None, None, "tool_call", None)


def test_a_call_that_is_missing_is_no_answer() -> None:
    found = response(answer({"content": "I will look it up"}, "tool_calls"), extra_body=TOOLS)
    assert isinstance(found, Response)
    assert (found.error_type, found.error) == ("tool_call", "the model's call is missing")


def test_a_text_with_calls_is_a_text_and_keeps_them() -> None:
    found = response(answer({"content": "so:", "tool_calls": [CALL]}), extra_body=TOOLS)
    assert isinstance(found, Response)
    assert (found.text, found.finish_reason, json.loads(found.tool_calls or "")) == ("so:", "stop", [CALL])


def test_halves_of_characters_are_replaced() -> None:
    found = response(answer({"content": "a\ud800b \ud83d\ude00", "tool_calls": [{"x": "\udfff"}]}), extra_body=TOOLS)
    assert isinstance(found, Response)
    assert (found.text, found.tool_calls) == ("a\N{REPLACEMENT CHARACTER}b 😀", '[{"x": "\N{REPLACEMENT CHARACTER}"}]')


@pytest.mark.parametrize(
    ("body", "kind", "error_type", "words"),
    [
        (
            {"error": {"message": "Rate limit exceeded: free-models-per-day", "code": 429}},
            *("refused", "api_error", "an error inside an answer, 429: Rate limit exceeded: free-models-per-day"),
        ),
        ({"error": {"message": "Insufficient credits", "code": 402}}, *("quota", "api_error", None)),
        ({"error": {"message": "No such model", "code": "404"}}, *("absent", "bad_request", None)),
        ({"error": "overloaded"}, "transient", "api_error", "an error inside an answer: overloaded"),
        ([{"error": {"status": "UNAVAILABLE", "message": "later"}}], "transient", "api_error", None),
        ({"error": {"code": "context_length_exceeded", "message": "No."}}, "row", "too_long", None),
        ({"object": "error", "message": "boom", "code": 500}, "transient", "api_error", None),
        ({"detail": "Not authenticated"}, "transient", "api_error", "an error inside an answer: Not authenticated"),
        (
            {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}, "choices": None},
            *("quota", "api_error", "an error inside an answer, 1008: insufficient balance"),
        ),
        (
            {"choices": [{"error": {"code": 502, "message": "upstream"}, "finish_reason": "error", "message": {}}]},
            *("transient", "api_error", "an error inside an answer, 502: upstream"),
        ),
        ({"error": {"message": "\ud800"}}, "transient", "api_error", None),
    ],
)
def test_an_error_inside_an_answer_means_what_it_says(body: Any, kind: str, error_type: str, words: str | None) -> None:
    found = response(body)
    assert isinstance(found, Failure)
    assert (found.kind, found.error_type) == (kind, error_type)
    assert words in (None, found.words)
    found.words.encode()
