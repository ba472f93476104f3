"""What is sent for a prompt, and what an answer or an error means for its row; no server is asked."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.openai.chat_api import ChatApi, Failure, ModelEndpoint
from tests.generators.openai.openai_generators import spec

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
    bare = {"prompt_tokens": 9, "completion_tokens": None, "prompt_tokens_details": None}
    assert response(answer({"content": "text"}, usage=bare)) == Response("text", "stop", 9, 0, attempts=2)


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
    ("reason", "expected"), [("stop", "stop"), ("length", "length"), ("eos", "stop"), (None, "stop")]
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
    ],
)
def test_a_refusal_is_no_answer_but_is_paid_for(body: dict[str, Any], words: str) -> None:
    found = response({**body, "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    assert found == Response(None, None, 3, 2, "refused", words, attempts=2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<html>", "the answer is not JSON"),
        (None, "the answer is not JSON"),
        ([], "the answer is not JSON"),
        ({}, "the answer has no choices"),
        ({"choices": []}, "the answer has no choices"),
        ({"choices": [None]}, "the answer has no choices"),
        ({"choices": [{"text": "of another API"}]}, "the answer has no message"),
    ],
)
def test_what_is_no_chat_completion_may_pass(body: Any, words: str) -> None:
    assert response(body) == Failure("transient", "api_error", words)


@pytest.mark.parametrize(
    ("status", "body", "message", "kind", "error_type"),
    [
        (400, {"code": "invalid_value"}, "Invalid value.", "row", "bad_request"),
        (422, {}, "Field required", "row", "bad_request"),
        (400, {"code": "context_length_exceeded"}, "Too much.", "row", "too_long"),
        (400, {}, "This model's maximum context length is 10 tokens.", "row", "too_long"),
        (400, {"type": "BadRequestError"}, "longer than the maximum model length of 10", "row", "too_long"),
        (400, {}, "the request exceeds the available context size", "row", "too_long"),
        (413, {}, "Payload Too Large", "row", "too_long"),
        (400, {"code": "content_filter"}, "Filtered.", "row", "refused"),
        (400, {}, "due to Azure OpenAI's content management policy", "row", "refused"),
        (401, {}, "No.", "key", "api_error"),
        (403, {}, "No.", "forbidden", "bad_request"),
        (404, {}, "No.", "absent", "bad_request"),
        (429, {"code": "insufficient_quota"}, "No.", "quota", "api_error"),
        (429, {"type": "insufficient_quota"}, "No.", "quota", "api_error"),
        (429, {"code": "rate_limit_exceeded"}, "No.", "refused", "api_error"),
        *((status, {}, "No.", "transient", "api_error") for status in (408, 409, 425, 500, 502, 503, 504, 529)),
    ],
)
def test_a_status_has_its_meaning(status: int, body: dict[str, Any], message: str, kind: str, error_type: str) -> None:
    found = ModelEndpoint(spec()).status_failure(status, body, message)
    assert (found.kind, found.error_type, found.words) == (kind, error_type, f"HTTP {status}: {message}")
    assert found.may_pass == (kind in ("refused", "transient"))


@pytest.mark.parametrize(
    ("settings", "failure", "answered", "kind", "sentence"),
    [
        (
            {},
            ("key", "HTTP 401: No."),
            True,
            InputError,
            "127.0.0.1:9 refuses the key in the environment variable OPENAI_API_KEY: HTTP 401: No.",
        ),
        (
            {"endpoint": "http://me:secret@h/v1"},
            ("key", "HTTP 401: No."),
            True,
            InputError,
            "h refuses the user and the password in the endpoint: HTTP 401: No.",
        ),
        (
            {},
            ("forbidden", "HTTP 403: No."),
            False,
            InputError,
            "127.0.0.1:9 forbids the request for 'small': HTTP 403: No.",
        ),
        ({}, ("forbidden", "HTTP 403: No."), True, None, ""),
        (
            {},
            ("absent", "HTTP 404: No."),
            True,
            InputError,
            "127.0.0.1:9 has no model 'small', or the endpoint is not its base URL, which mostly ends in /v1: "
            "HTTP 404: No.",
        ),
        (
            {},
            ("quota", "HTTP 429: No."),
            True,
            StoppedError,
            "the account at 127.0.0.1:9 has no quota left; raise it and run again: HTTP 429: No.",
        ),
        ({}, ("row", "HTTP 400: No."), False, None, ""),
        ({}, ("transient", "HTTP 500: No."), False, None, ""),
    ],
)
def test_failures_that_every_request_would_meet_end_the_run(
    settings: dict[str, Any], failure: Any, answered: bool, kind: type[Exception] | None, sentence: str
) -> None:
    found = ModelEndpoint(spec(**settings)).fatal(Failure(failure[0], "api_error", failure[1]), answered)
    assert (type(found), str(found)) == (kind or type(None), sentence or "None")


def test_a_server_of_ones_own_needs_no_key_and_may_want_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    endpoint = ModelEndpoint(spec())
    with endpoint.client() as client:
        assert client.api_key == "none"
    assert str(endpoint.fatal(Failure("key", "api_error", "HTTP 401: Who?"), False)) == (
        "127.0.0.1:9 wants a key, and the environment variable OPENAI_API_KEY is not set: HTTP 401: Who?"
    )


@pytest.mark.parametrize("value", [None, "", " \n"])
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"endpoint": None},
            "the model 'small' needs a key: set the environment variable OPENAI_API_KEY, or name another as "
            "api_key_env",
        ),
        ({"api_key_env": "THE_KEY"}, "the model 'small' needs a key: set the environment variable THE_KEY"),
    ],
)
def test_a_missing_key_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], sentence: str, value: str | None
) -> None:
    for name in ("OPENAI_API_KEY", "THE_KEY"):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as found:
        ModelEndpoint(spec(**settings))
    assert str(found.value) == sentence


@pytest.mark.parametrize("value", ["sk-planted\nand more", "sk-planted\u2026"])
def test_a_key_that_no_header_can_hold_is_one_sentence_without_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(InputError) as found:
        ModelEndpoint(spec())
    assert str(found.value) == (
        "what the environment variable OPENAI_API_KEY holds is no key: "
        "it has line breaks or characters beyond ASCII in it"
    )


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError) as found:
        ModelEndpoint(spec())
    assert str(found.value) == "the model 'small' needs a package: pip install 'batchroute[openai]'"


@pytest.mark.parametrize(
    "url", ["http://h:port/v1", "http://[bad", "http://", "http://me:pass/word@h/v1", "http://h:99999/v1"]
)
def test_an_endpoint_that_is_no_url_is_one_sentence_without_its_words(url: str) -> None:
    with pytest.raises(InputError, match=r"^the endpoint of the model 'small' is no base URL such as") as found:
        ModelEndpoint(spec(url))
    assert "word" not in str(found.value).replace("password", "")


def test_the_client_has_the_key_the_address_and_the_time_and_never_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "sk-other\n")
    with ModelEndpoint(spec(api_key_env="THE_KEY", timeout=7)).client() as client:
        assert (client.api_key, str(client.base_url)) == ("sk-other", "http://127.0.0.1:9/v1/")
        assert (client.timeout, client.max_retries) == (7, 0)


def test_an_address_in_the_environment_is_openais_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ModelEndpoint(spec(None)).host == "api.openai.com"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:hidden@other/v1")
    endpoint = ModelEndpoint(spec(None))
    assert (endpoint.host, endpoint.redactor.line("at http://me:hidden@other")) == ("other", "at http://me:***@other")


def test_exceptions_of_the_client_are_failures_without_secrets() -> None:
    endpoint = ModelEndpoint(spec(timeout=3))
    request: Any = None
    timeout = openai.APITimeoutError(request)
    assert endpoint.failure(timeout) == Failure("transient", "api_error", "no answer within 3 s")
    broken = openai.APIConnectionError(request=request)
    broken.__cause__ = OSError("no route for sk-planted\nand more")
    assert endpoint.failure(broken) == Failure("transient", "api_error", "OSError: no route for ***")
    assert endpoint.failure(ValueError("no JSON")).words == "ValueError: no JSON"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"message": "its words", "code": None}, "its words"),
        ({"detail": "its words"}, "its words"),
        (
            {"detail": [{"loc": ["body", "top_k"], "msg": "not a number", "input": "a prompt"}]},
            "not a number at ['body', 'top_k']",
        ),
        ("its words", "whole"),
        (None, "whole"),
    ],
)
def test_the_words_of_an_error_are_found_wherever_a_server_puts_them(body: Any, words: str) -> None:
    reply: Any = SimpleNamespace(status_code=400, headers={}, request=None)
    found = ModelEndpoint(spec()).failure(openai.BadRequestError("whole", response=reply, body=body))
    assert found == Failure("row", "bad_request", f"HTTP 400: {words}")
