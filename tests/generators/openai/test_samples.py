"""Extra samples from an endpoint: one request for all of a row while it takes `n`, else one for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batchroute import generators
from batchroute.generators.base import Response
from tests.generators.openai.openai_generators import KEY, spec
from tests.support.openai_server import OpenAIServer

ROWS = [f"row {number}" for number in range(30)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer() as found:
        yield found


def ask(server: OpenAIServer, rows: list[str], **settings: object) -> tuple[list[Response], list[str]]:
    generator = generators.load(spec(server.url, confidence={"samples": 3}, **settings), lambda: None)  # type: ignore[arg-type,return-value]
    try:
        return generator.generate(rows, range(len(rows))), list(generator.notes)
    finally:
        generator.close()


def test_one_request_asks_for_all_samples_of_a_row(server: OpenAIServer) -> None:
    found, notes = ask(server, ROWS)
    assert notes == []
    assert {response.agreement for response in found} == {1.0}
    # The server counts the words of the prompt once, and of three answers.
    assert {(one.input_tokens, one.output_tokens) for one in found} == {(2, 3)}
    assert {(one.sample_input_tokens, one.sample_output_tokens) for one in found} == {(2, 9)}
    bodies = [request.body for request in server.requests]
    samples = [body for body in bodies if "n" in body]
    assert len(bodies) == 60
    assert len(samples) == 30
    assert {(body["n"], body["temperature"]) for body in samples} == {(3, 0.7)}
    assert len({body["seed"] for body in samples}) == 30
    assert not any("logprobs" in body for body in samples)
    assert all("logprobs" in body for body in bodies if body not in samples)


def test_a_model_that_samples_keeps_its_temperature(server: OpenAIServer) -> None:
    ask(server, ROWS[:1], generation={"temperature": 1.2, "top_p": 0.9})
    assert {(request.body["temperature"], request.body["top_p"]) for request in server.requests} == {(1.2, 0.9)}


@pytest.mark.parametrize("answer", ["refused", "ignored"])
def test_an_endpoint_without_n_is_asked_for_each_sample(server: OpenAIServer, answer: str) -> None:
    server.settings.n = answer  # type: ignore[assignment]
    found, notes = ask(server, ROWS)
    assert notes == ["the model 'small' is asked for each extra sample by itself: its endpoint takes no n"]
    assert {response.agreement for response in found} == {1.0}
    # Each request reads the prompt.
    assert {(one.sample_input_tokens, one.sample_output_tokens) for one in found} == {(6, 9)}


def test_samples_that_differ_do_not_agree(server: OpenAIServer) -> None:
    server.settings.n = "refused"
    server.settings.answer = lambda body: f"{body.get('seed', 0) % 2}" if body["temperature"] else "1"
    found, _ = ask(server, ROWS)
    shares = {round(3 * (response.agreement or 0), 9) for response in found}
    assert len(shares) > 2
    assert shares <= {0, 1, 2, 3}


def test_samples_that_fail_leave_the_answer(server: OpenAIServer) -> None:
    server.settings.n = "refused"
    server.faults = {"row 0": ["ok", "400", "400", "400", "400"]}
    (response,), _ = ask(server, ROWS[:1])
    assert (response.text, response.error_type) == ("echo: row 0", None)
    assert (response.agreement, response.sample_output_tokens) == (None, 0)
