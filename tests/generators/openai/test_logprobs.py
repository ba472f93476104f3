"""Log-probabilities from an endpoint: as it gives them, and without them where it refuses or ignores the wish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from batchroute.generators import signals
from batchroute.generators.base import Response
from batchroute.generators.openai.logprobs import signals_of
from tests.generators.openai.openai_generators import KEY, generator
from tests.support.jobs import JobFolder, table
from tests.support.openai_server import OpenAIServer
from tests.support.openai_server.chat import logprobs_of

ROWS = [f"row {number}" for number in range(40)]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as found:
        yield found


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def expected(text: str) -> tuple[float | None, float | None]:
    values = [-ord(one) / 100 for one in text]
    return float(np.mean(values)), float(np.quantile(values, 0.1))


def check(responses: Sequence[Response]) -> None:
    for response in responses:
        assert (response.logprob, response.logprob_low) == pytest.approx(expected(response.text or ""))


def test_they_are_those_of_the_answers_tokens(server: OpenAIServer) -> None:
    with generator(server, confidence={}) as asked:
        check(asked.generate(ROWS, range(40)))
        assert list(asked.notes) == []
    assert all(request.body["logprobs"] is True for request in server.requests)


def test_an_endpoint_is_not_asked_for_them_unless_the_job_wants_them(server: OpenAIServer) -> None:
    with generator(server) as asked:
        (response,) = asked.generate(["a"], [0])
    assert (response.logprob, response.logprob_low) == (None, None)
    assert "logprobs" not in server.requests[0].body


def test_tokens_behind_a_stop_string_that_the_server_ignored_do_not_count(server: OpenAIServer) -> None:
    server.settings.response = {
        "choices": [
            {"message": {"content": "über STOP b"}, "finish_reason": "stop", "logprobs": logprobs_of("über STOP b")}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 11},
    }
    with generator(server, confidence={}, generation={"stop": "STOP"}) as asked:
        (response,) = asked.generate(["a"], [0])
    assert response.text == "über "
    check([response])


def test_an_endpoint_that_refuses_them_is_noted_once_and_goes_on_without(server: OpenAIServer) -> None:
    server.settings.logprobs = "refused"
    with generator(server, confidence={}) as asked:
        found = asked.generate(ROWS, range(40))
        again = asked.generate(ROWS[:3], range(3))
        (note,) = asked.notes
    assert note == "the model 'small' goes on without log-probabilities, which its endpoint refuses"
    assert [response.text for response in found] == [f"echo: {prompt}" for prompt in ROWS]
    assert {response.logprob for response in found + again} == {None}
    # Those that were on their way at first are asked twice, and later ones once.
    assert {response.attempts for response in found} <= {1, 2}
    assert {response.attempts for response in again} == {1}


def test_another_bad_request_is_none_of_logprobs(server: OpenAIServer) -> None:
    server.faults = {"row 1": ["400"]}
    with generator(server, confidence={}) as asked:
        good, bad = asked.generate(ROWS[:2], range(2))
        assert list(asked.notes) == []
    assert good.logprob is not None
    assert (bad.error_type, bad.logprob) == ("bad_request", None)


def test_a_wish_that_is_ignored_leaves_them_unknown(server: OpenAIServer) -> None:
    server.settings.logprobs = "ignored"
    with generator(server, confidence={}) as asked:
        (response,) = asked.generate(["a"], [0])
    assert (response.text, response.logprob) == ("echo: a", None)


@pytest.mark.parametrize(
    "broken", [None, {}, {"content": None}, {"content": []}, {"content": [{"token": "a", "logprob": None}]}, [1], "x"]
)
def test_logprobs_of_another_form_are_unknown(broken: object) -> None:
    assert signals_of(broken, "a", cut=True) == (None, None)


def test_a_token_that_the_endpoint_has_no_number_for_counts_as_the_least() -> None:
    content = [{"token": "a", "logprob": -9999.0, "bytes": None}]
    assert signals_of({"content": content}, "a", cut=False) == (signals.LEAST, signals.LEAST)


@pytest.mark.parametrize("answer", ["given", "refused"])
def test_a_provider_batch_has_them_too_or_goes_on_without(server: OpenAIServer, tmp_path: Path, answer: str) -> None:
    server.settings.logprobs = answer
    folder = JobFolder(tmp_path, table(120))
    small = {"backend": "openai_batch", "model": "small", "endpoint": server.url, "poll_seconds": 0.01}
    folder.settings["models"]["small"] = {**small, "confidence": {}, "price": {"input": 1, "output": 2}}
    outcome = folder.run()
    assert outcome.report.rows["ok"] == 120
    assert folder.log.count("goes on without log-probabilities") == (answer == "refused")
    units = pl.concat(pl.read_parquet(unit) for unit in folder.folder.glob("out.work/*/small/*.parquet"))
    known = units.filter(pl.col("copy_of").is_null())
    assert known["logprob"].null_count() == (0 if answer == "given" else len(known))
    if answer == "given":
        (text, mean, low) = known.select("response", "logprob", "logprob_low").row(0)
        assert (mean, low) == pytest.approx(expected(text), rel=1e-5)
        ledger = pl.concat(pl.read_parquet(one) for one in folder.folder.glob("out.work/*/batches/small/*.parquet"))
        assert ledger["logprob"].null_count() == 0
