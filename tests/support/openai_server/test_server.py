"""The server for tests itself, asked by the official client; its batches are in `openai_server/test_batches.py`."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.support.openai_server import Fault, OpenAIServer, ServerProcess
from tests.support.openai_server.asking import TEN, ask, connect, create, end
from tests.support.openai_server.settings import CHAT


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as found:
        yield found


@pytest.fixture
def client(server: OpenAIServer) -> Iterator[openai.OpenAI]:
    with connect(server) as found:
        yield found


def test_a_chat_is_answered_by_an_echo_and_its_words_are_counted(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.settings.cached_tokens, server.settings.reasoning_tokens = 1, 5
    found = ask(client, "how are you")
    choice, usage = found.choices[0], found.usage
    assert (choice.message.content, choice.finish_reason, found.model) == ("echo: how are you", "stop", "small")
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 9, 12)
    assert usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    assert (usage.prompt_tokens_details.cached_tokens, usage.completion_tokens_details.reasoning_tokens) == (1, 5)
    assert (server.served, server.max_in_flight) == ({"how are you": 1}, 1)
    assert [(one.path, one.status, one.headers["authorization"]) for one in server.requests] == [
        (CHAT, 200, "Bearer sk-test")
    ]
    assert [one.id for one in client.models.list()] == ["small", "large"]


def test_answers_are_cut_at_the_limit_and_at_stops_and_may_be_given(
    server: OpenAIServer, client: openai.OpenAI
) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        choice = ask(client, "a b c", **{name: 2}).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("echo: a", "length")
    assert ask(client, "a b c", stop=["b"]).choices[0].message.content == "echo: a "
    assert len(ask(client, "a", n=3).choices) == 3
    server.settings.answer = lambda body: body["model"].upper() if body.get("seed") else None
    assert [ask(client, "a", seed=seed).choices[0].message.content for seed in (0, 1)] == ["echo: a", "SMALL"]
    server.settings.response = {"id": "x", "object": "chat.completion", "choices": []}
    assert ask(client, "a").id == "x"


def test_a_wrong_key_is_refused_and_repeated(server: OpenAIServer) -> None:
    with connect(server, api_key="sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError, match="sk-wrong") as found:
            ask(client, "a")
        with pytest.raises(openai.AuthenticationError, match="sk-wrong"):
            client.batches.list()
    assert found.value.body == {
        "message": "Incorrect API key provided: sk-wrong.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert not server.served


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "other"}, 404, "model_not_found"),
        ({"foo": 1}, 400, "unknown_parameter"),
        ({"messages": [{"role": "user", "content": "a", "foo": 1}]}, 400, "unknown_parameter"),
        ({"messages": [{"role": "usr", "content": "a"}]}, 400, "invalid_value"),
        ({"messages": []}, 400, "empty_array"),
        ({"temperature": "0"}, 400, "invalid_type"),
        ({"temperature": 3}, 400, "value_out_of_range"),
        ({"max_tokens": 0}, 400, "value_out_of_range"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, 400, "invalid_parameter_combination"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "array_above_max_length"),
        ({"stream": True}, 400, "invalid_value"),
        ({"messages": [{"role": "user", "content": "a " * 21}]}, 400, "context_length_exceeded"),
    ],
)
def test_bodies_are_checked(body: dict[str, Any], status: int, code: str) -> None:
    good = {"model": "small", "messages": [{"role": "user", "content": "a"}], "top_k": 5}
    with OpenAIServer(extra_fields={"top_k"}, context_length=20) as server, connect(server) as client:
        client.post("/chat/completions", body=good, cast_to=ChatCompletion)
        with pytest.raises(openai.APIStatusError) as found:
            client.post("/chat/completions", body={**good, **body}, cast_to=ChatCompletion)
        assert (found.value.status_code, found.value.code) == (status, code)
        assert [one.status for one in server.requests] == [200, status]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("429", 429, "rate_limit_exceeded"),
        ("insufficient_quota", 429, "insufficient_quota"),
        ("400_content_filter", 400, "content_filter"),
        ("context_overflow", 400, "context_length_exceeded"),
        ("401", 401, "invalid_api_key"),
        ({"kind": "400", "code": "own", "message": "mine"}, 400, "own"),
        *((str(status), status, None) for status in (408, 500, 502, 503, 529)),
        ("403", 403, "unsupported_country_region_territory"),
        ("404", 404, "model_not_found"),
    ],
)
def test_a_fault_befalls_once_the_request_that_contains_its_text(
    server: OpenAIServer, client: openai.OpenAI, fault: Any, status: int, code: str | None
) -> None:
    server.faults = {"poison": [fault]}
    ask(client, "good")
    with pytest.raises(openai.APIStatusError) as found:
        ask(client, "a poison")
    assert (found.value.status_code, found.value.code) == (status, code)
    ask(client, "a poison")
    assert (server.served, server.faulted.total()) == ({"good": 1, "a poison": 1}, 1)


def test_schedules_go_on_for_ever_may_spare_a_request_and_know_their_words(
    server: OpenAIServer, client: openai.OpenAI
) -> None:
    server.faults["x"] = [None, Fault("500"), "503*"]
    statuses = []
    for _ in range(4):
        try:
            ask(client, "x")
            statuses.append(200)
        except openai.APIStatusError as error:
            statuses.append(error.status_code)
    assert statuses == [200, 500, 503, 503]
    with pytest.raises(ValueError, match="no fault is called 'oops'"):
        server.faults["x"] = ["oops"]
    with pytest.raises(ValueError, match="no fault is called 'create_oops'"):
        server.http_faults["create_oops"] = 1
    server.clear_faults()
    ask(client, "x")


def test_the_client_is_told_when_to_come_back(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.faults["x"] = [
        "429",
        Fault("429", retry_after=7),
        Fault("503", retry_after=60, http_date=True),
        Fault("429", retry_after_ms=20),
    ]
    headers = []
    for _ in range(4):
        with pytest.raises(openai.APIStatusError) as found:
            ask(client, "x")
        headers.append(found.value.response.headers)
    assert [one.get("retry-after") for one in headers[:2]] == ["1", "7"]
    assert 57 < email.utils.parsedate_to_datetime(headers[2]["retry-after"]).timestamp() - time.time() <= 60
    assert (headers[3].get("retry-after"), headers[3]["retry-after-ms"]) == (None, "20")
    server.faults["x"] = [Fault("429", retry_after_ms=1)] * 2
    assert ask(client.with_options(max_retries=2), "x").choices
    assert [one.headers["x-stainless-retry-count"] for one in server.requests[-3:]] == ["0", "1", "2"]


def test_connections_hang_and_are_cut(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.faults = {"hang": ["hang"], "gone": ["cut"], "half": ["cut_in_body"], "slow": [Fault("slow", seconds=0.1)]}
    with pytest.raises(openai.APITimeoutError):
        ask(client, "hang", timeout=0.1)
    for text in ("gone", "half"):
        with pytest.raises(openai.APIConnectionError):
            ask(client, text)
    begun = time.monotonic()
    ask(client, "slow")
    assert time.monotonic() - begun > 0.1
    assert server.served == {"gone": 1, "half": 1, "slow": 1}


def test_answers_are_not_what_they_should_be(server: OpenAIServer, client: openai.OpenAI) -> None:
    kinds = ["empty_choices", "no_usage", "null_content", "refusal", "content_filter", "wrong_model"]
    server.faults = {"x": [*kinds, "malformed", "html"]}
    found = {kind: ask(client, "x") for kind in kinds}
    assert found["empty_choices"].choices == []
    assert found["no_usage"].usage is None
    assert found["null_content"].choices[0].message.content is None
    assert found["refusal"].choices[0].message.content is None
    assert found["refusal"].choices[0].message.refusal
    assert found["content_filter"].choices[0].finish_reason == "content_filter"
    assert found["wrong_model"].model == "another-model"
    with pytest.raises(json.JSONDecodeError):
        ask(client, "x")
    assert client.chat.completions.with_raw_response.create(
        model="small", messages=[{"role": "user", "content": "x"}]
    ).text.startswith("<html>")
    assert server.served == {"x": len(kinds) + 1}


def test_a_share_of_the_requests_meets_a_fault_the_same_ones_for_a_seed() -> None:
    def failed(seed: int) -> list[int]:
        with OpenAIServer() as server, connect(server) as client:
            server.random_fault("500", 0.3, seed)
            for number in range(30):
                with contextlib.suppress(openai.InternalServerError):
                    ask(client, str(number))
            assert server.faulted == {"500": 30 - server.served.total()}
            return [number for number in range(30) if str(number) not in server.served]

    assert failed(1) == failed(1) != failed(2)
    assert 3 < len(failed(1)) < 18


async def many(server: OpenAIServer, requests: int, held: int = 0) -> list[Any]:
    """The answers of so many requests at once; those that are held are given up when all of them are there."""

    async def one(number: int, client: openai.AsyncOpenAI) -> Any:
        messages: Any = [{"role": "user", "content": str(number)}]
        return await client.chat.completions.create(model="small", messages=messages)

    async with openai.AsyncOpenAI(base_url=server.url, api_key="sk-test", max_retries=0, timeout=20) as client:
        waiting = [asyncio.create_task(one(number, client)) for number in range(requests)]
        while server.max_in_flight < held and not all(task.done() for task in waiting):
            await asyncio.sleep(0.01)
        if held:
            for task in waiting:
                task.cancel()
        return await asyncio.gather(*waiting, return_exceptions=True)


def test_256_requests_are_served_at_once(server: OpenAIServer) -> None:
    found = asyncio.run(many(server, 256))
    assert [one.choices[0].message.content for one in found] == [f"echo: {number}" for number in range(256)]
    server.faults[""] = "hang*"
    asyncio.run(many(server, 256, held=256))
    assert (server.max_in_flight, server.faulted["hang"], server.served.total()) == (256, 256, 256)


def test_too_many_requests_at_once_or_a_second_are_turned_away() -> None:
    with OpenAIServer(delay=0.5, max_concurrency=3) as server:
        found = asyncio.run(many(server, 8))
        assert sum(isinstance(one, openai.RateLimitError) for one in found) == 5
        assert (server.max_in_flight, server.served.total()) == (3, 3)
    with OpenAIServer(requests_per_second=1) as server:
        found = asyncio.run(many(server, 4))
        refused = [one for one in found if isinstance(one, openai.RateLimitError)]
        assert len(refused) == 3
        assert all(500 < int(one.response.headers["retry-after-ms"]) <= 1000 for one in refused)


def test_a_process_is_killed_and_goes_on_with_what_it_knew(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, batch_polls=2, models=["small"]) as server, connect(server) as client:
        server.set_faults(chat={"x": ["500"]}, batches=["expire"], http={"create_cut": 1})
        with pytest.raises(openai.InternalServerError):
            ask(client, "x")
        ask(client, "x")
        with pytest.raises(openai.APIConnectionError):
            create(client, TEN)
        batch = next(iter(client.batches.list()))
        client.batches.retrieve(batch.id)
        server.set_faults()
        server.kill()
        with pytest.raises(openai.APIConnectionError):
            client.batches.retrieve(batch.id)
        server.restart()
        assert client.batches.retrieve(batch.id).status == "in_progress"
        assert end(client, batch).status == "expired"
        other = create(client, TEN)
        server.finish(other.id)
        assert client.batches.retrieve(other.id).status == "completed"
        ask(client, "x")
        assert (server.served(), server.max_in_flight()) == ({"x": 2}, 1)
        assert (server.submitted()["ask r0"], server.submitted_ids()["r9"], server.completed()["ask r9"]) == (2, 2, 1)
        assert [one["status"] for one in server.batches()] == ["expired", "completed"]
        faults = [one.fault for one in server.requests() if one.fault is not None]
        assert faults == ["500", "create_cut"]
        assert len(server.files()) == 5
    with OpenAIServer(tmp_path) as reader:
        assert (reader.served, reader.submitted["ask r0"], len(reader.batches())) == ({"x": 2}, 2, 2)
