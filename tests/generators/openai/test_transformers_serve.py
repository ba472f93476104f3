"""The backend `openai` against a real server with a real model, `transformers serve`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from batchroute import generators, models
from batchroute.generators.base import Response
from batchroute.prompt import Prompt
from tests.generators.openai.openai_generators import generator, spec
from tests.support.transformers_server import TransformersServer

pytestmark = pytest.mark.models

MODEL = models.embedded_dir("smollm2-135m-instruct")
JSON = {"type": "json_object"}
PROMPTS = [f"What is {number} plus one?" for number in range(16)]


@pytest.fixture(scope="module")
def server() -> Iterator[TransformersServer]:
    with TransformersServer(MODEL) as found:
        yield found


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(server: TransformersServer, prompts: list[Prompt], tokens: int = 4, **settings: Any) -> list[Response]:
    sampling = {"max_new_tokens": tokens, **settings.pop("generation", {})}
    with generator(server.url, model=server.model, generation=sampling, **settings) as asked:
        return asked.generate(prompts, range(len(prompts)))


def test_single_requests_are_answered_and_counted(server: TransformersServer) -> None:
    chat = [{"role": "user", "content": "Name a colour."}]
    for prompt in ("The capital of France is", chat):
        (found,) = ask(server, [prompt], system="Be brief.")
        assert found.text
        assert (found.error_type, found.finish_reason, found.attempts, found.estimated) == (None, "length", 1, False)
        assert found.output_tokens == 4
        assert found.input_tokens > 10


def test_sampling_settings_are_understood(server: TransformersServer) -> None:
    sampling = {"temperature": 0.7, "top_p": 0.9, "stop": ["\n"], "seed": 3}
    first, again = (ask(server, ["Tell me a story."], generation=sampling)[0] for _ in range(2))
    assert first.error_type is None
    assert first.text
    assert first.text == again.text


def test_a_field_that_it_does_not_know_fails_the_row_with_its_words(server: TransformersServer) -> None:
    (found,) = ask(server, ["Tell me."], extra_body={"min_p": 0.1})
    assert (found.error_type, found.error) == (
        "bad_request",
        "HTTP 422: Unexpected fields in the request: {'min_p'}",
    )


def test_a_response_format_that_it_ignores_is_checked_here(server: TransformersServer) -> None:
    asked = generators.load(
        spec(server.url, model=server.model, response_format=JSON, generation={"max_new_tokens": 4}),
        lambda: torch.device("cpu"),
    )
    (found,) = asked.generate(["Tell me."], [0])
    asked.close()
    assert (found.error_type, found.output_tokens) == ("invalid_response", 4)
    assert found.text


def test_16_requests_at_once_are_answered_in_their_order(server: TransformersServer) -> None:
    alone = [ask(server, [prompt])[0] for prompt in PROMPTS[:2]]
    found = ask(server, list(PROMPTS), concurrency=16)
    assert [response.error_type for response in found] == [None] * 16
    assert [response.text for response in found[:2]] == [response.text for response in alone]


def test_a_server_that_is_killed_and_comes_back_loses_no_row(server: TransformersServer) -> None:
    found: list[Response] = []
    thread = threading.Thread(target=lambda: found.extend(ask(server, list(PROMPTS), 8, concurrency=4, retries=50)))
    thread.start()
    time.sleep(1)
    server.restart()
    thread.join(120)
    assert len(found) == 16
    assert all(response.text and response.error_type is None for response in found)
    assert max(response.attempts for response in found) > 1


def test_a_model_that_it_does_not_have_fails_the_row(server: TransformersServer) -> None:
    with generator(server.url, model="no/such") as asked:
        (found,) = asked.generate(["a"], [0])
    assert found.error_type == "bad_request"
    assert found.error is not None
    assert found.error.startswith("HTTP 400: Server is pinned to")
