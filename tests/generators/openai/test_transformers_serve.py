"""The backend `openai`, and a whole job, against a real server with a real model: `transformers serve`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from batchroute import generators, models
from batchroute.errors import EXIT_OK
from batchroute.generators.base import Response
from batchroute.prompt import Prompt
from tests.generators.openai.openai_generators import generator, spec
from tests.support.jobs import JobFolder
from tests.support.transformers_server import TransformersServer

pytestmark = pytest.mark.models

MODEL = models.embedded_dir("smollm2-135m-instruct")
JSON = {"type": "json_object"}
PROMPTS = [f"What is {number} plus one?" for number in range(8)]
QUESTIONS = [f"What is {i} + {i + 2}? Answer with one number." for i in range(16)]


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


def test_requests_at_once_are_answered_in_their_order(server: TransformersServer) -> None:
    alone = [ask(server, [prompt])[0] for prompt in PROMPTS[:2]]
    found = ask(server, list(PROMPTS), concurrency=8)
    assert [response.error_type for response in found] == [None] * 8
    assert [response.text for response in found[:2]] == [response.text for response in alone]


def job(tmp_path: Path, url: str) -> JobFolder:
    frame = pl.DataFrame({"id": [f"row-{i}" for i in range(16)], "prompt": QUESTIONS, "team": ["a"] * 16})
    small = {
        "backend": "transformers",
        "model": str(MODEL),
        "generation": {"max_new_tokens": 4},
        "price": {"input": "0.05", "output": "0.1"},
        "on_failure": "large",
    }
    large = {
        "backend": "openai",
        "model": str(MODEL),
        "endpoint": url,
        "generation": {"max_new_tokens": 8},
        "concurrency": 4,
        "retries": 50,
        "price": {"input": "0.5", "output": "1.5"},
    }
    units = {"score": 16, "generate": 2, "merge": 16}
    return JobFolder(tmp_path, frame, models={"small": small, "large": large}, units=units, policy={"small_share": 0.5})


def test_a_job_whose_large_model_is_killed_and_comes_back_loses_no_row(
    server: TransformersServer, tmp_path: Path
) -> None:
    folder = job(tmp_path, server.url)
    killed = threading.Thread(target=_kill_and_restart_in_the_middle, args=(server, tmp_path))
    killed.start()
    outcome = folder.run()
    killed.join()
    rows = folder.answers()
    assert outcome.exit_code == EXIT_OK
    assert rows["prompt"].to_list() == QUESTIONS
    assert set(rows["status"]) == {"ok"}
    # The small model may write four tokens, and says more than that: those rows go on to the large one.
    assert outcome.report.rows["escalated"] > 0
    assert (rows["input_tokens"] > 0).all()
    assert (rows["output_tokens"] > 0).all()
    assert rows.filter(route="large").height == 8
    assert rows.filter(route="small→large").height == outcome.report.rows["escalated"]
    assert rows.filter(route="large")["attempts"].max() > 1
    assert rows["cost"].sum() + (outcome.report.router.cost or Decimal(0)) == outcome.report.total_cost


def _kill_and_restart_in_the_middle(server: TransformersServer, tmp_path: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out.work/*/large/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    server.restart()


def test_a_model_that_it_does_not_have_fails_the_row(server: TransformersServer) -> None:
    with generator(server.url, model="no/such") as asked:
        (found,) = asked.generate(["a"], [0])
    assert found.error_type == "bad_request"
    assert found.error is not None
    assert found.error.startswith("HTTP 400: Server is pinned to")
