"""What an error means for its row and for the run; no server is asked."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from batchroute.errors import InputError, StoppedError
from batchroute.generators.openai.failures import Failure, ModelEndpoint
from tests.generators.openai.openai_generators import spec


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")


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
        ({}, ("absent", "HTTP 404: No."), True, None, ""),
        (
            {},
            ("absent", "HTTP 404: No."),
            False,
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
    assert endpoint._key() == "none"
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
        assert (client._refresh_api_key(), str(client.base_url)) == ("sk-other", "http://127.0.0.1:9/v1/")
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
        ("its words", "its words"),
        ([{"error": {"message": "its words"}}], "its words"),
        ({"error": "its words"}, "its words"),
        ([], "whole"),
        (None, "whole"),
    ],
)
def test_the_words_of_an_error_are_found_wherever_a_server_puts_them(body: Any, words: str) -> None:
    reply: Any = SimpleNamespace(status_code=400, headers={}, request=None)
    found = ModelEndpoint(spec()).failure(openai.BadRequestError("whole", response=reply, body=body))
    assert found == Failure("row", "bad_request", f"HTTP 400: {words}")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (402, "invalid_request_error", "Insufficient Balance"),  # DeepSeek
        (402, "", "Payment Required"),
        (429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details."),
        (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        (400, "billing_hard_limit_reached", "Billing hard limit has been reached"),
        (403, "", "Your team has either used all available credits or reached its monthly spending limit."),  # xAI
        (401, "insufficient_quota", "You exceeded your current quota."),  # Perplexity
        (429, "exceeded_current_quota_error", "Your account is not active."),  # Moonshot
        (400, "Arrearage", "Access denied."),  # DashScope
        (403, "30001", "Sorry, your account balance is insufficient"),  # SiliconFlow
        (429, "1113", "您的账户已欠费"),  # Zhipu
        (412, "", "Account suspended for reaching its spending limit"),
        (400, "invalid_request_error", "You have reached your specified API usage limits."),  # Anthropic
    ],
)
def test_no_money_is_no_fault_of_a_row(status: int, code: str, message: str) -> None:
    endpoint = ModelEndpoint(spec())
    found = endpoint.status_failure(status, {"code": code}, message)
    assert found.kind == "quota"
    assert isinstance(endpoint.fatal(found, has_answered=True), StoppedError)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        # OpenAI twice, Azure, xAI, Anthropic twice, Gemini, Vertex, Bedrock
        (400, "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."),
        (400, "Your input exceeds the context window of this model. Please adjust your input and try again."),
        (400, "Invalid 'messages[0].content': string too long. Expected a string with maximum length 10485760."),
        (400, "This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
        (400, "prompt is too long: 214850 tokens > 200000 maximum"),
        (400, "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000"),
        (400, "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."),
        (400, "the input token count is 40000 but model only supports up to 32768"),
        (400, "Input is too long for requested model."),
        # Mistral, Cohere, Groq, Moonshot, MiniMax, DashScope, Together
        (400, "Prompt contains 66385 tokens, too large for model with 32768 maximum context length"),
        (400, "too many tokens: total number of tokens in the prompt exceeds the limit of 4081"),
        (400, "Please reduce the length of the messages or completion."),
        (429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000."),
        (400, "Invalid request: Your request exceeded model token limit: 8192"),
        (400, "context window exceeds limit"),
        (400, "Range of input length should be [1, 30720]"),
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 4000 + 512"),
        # TGI, SGLang, vLLM twice, llama.cpp, Ollama, LM Studio, and what stands in front of them
        (422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"),
        (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
        (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
        (400, "The prompt is too long: 9000, model maximum context length: 8191"),
        (
            400,
            "the request exceeds the available context size. try increasing the context size or enable context shift",
        ),
        (500, "the input length exceeds the context length"),
        (400, "Trying to keep the first 5000 tokens when context the overflows."),
        (400, "The number of tokens to keep from the initial prompt is greater than the context length"),
        (413, "Request Entity Too Large"),
    ],
)
def test_a_prompt_that_is_too_long_is_known_in_every_providers_words(status: int, message: str) -> None:
    found = ModelEndpoint(spec()).status_failure(status, {}, message)
    assert (found.kind, found.error_type) == ("row", "too_long")


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (429, "Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.", "refused"),
        (
            429,
            "You exceeded your current quota, please check your plan and billing details. Quota exceeded for metric: "
            "generate_content_free_tier_requests, limit: 15. Please retry in 34.07s.",
            "refused",
        ),
        (400, "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.", "row"),
        (400, "Unsupported parameter: 'max_tokens' is not supported with this model.", "row"),
        (404, "The model `long-context-length` does not exist", "absent"),
        (503, "The engine is currently overloaded", "transient"),
        (424, "Request failed during generation", "transient"),
    ],
)
def test_what_only_sounds_like_it_is_not(status: int, message: str, kind: str) -> None:
    found = ModelEndpoint(spec()).status_failure(status, {}, message)
    assert (found.kind, found.error_type == "too_long") == (kind, False)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (403, {}, "Your chosen model requires moderation and your input was flagged"),  # OpenRouter
        (400, {}, "Content Exists Risk"),  # DeepSeek
        (400, {"code": "DataInspectionFailed"}, "Input data may contain inappropriate content."),  # DashScope
        (403, {}, "Content violates usage guidelines."),  # xAI
    ],
)
def test_a_prompt_that_a_filter_refuses_is_refused_alone(status: int, body: dict[str, Any], message: str) -> None:
    found = ModelEndpoint(spec()).status_failure(status, body, message)
    assert (found.kind, found.error_type) == ("row", "refused")
