"""The judge against a real HTTP server that speaks chat completions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from batchroute import quality
from batchroute.errors import InputError, StoppedError
from batchroute.quality.base import Item, Measurement, MetricSpec
from batchroute.quality.judge import Judge, question


def no_device() -> torch.device:
    raise AssertionError("the judge runs elsewhere")


class Server:
    """Answers by what the response to rate says: `answers[response]` are bodies or statuses, one a request."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(body)
                server.keys.append(self.headers["Authorization"])
                response = body["messages"][-1]["content"].rsplit("Response to rate:\n", 1)[1]
                answers = server.answers[response]
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                self.reply(answer)

            def reply(self, answer: Any) -> None:
                status = answer if isinstance(answer, int) else 200
                message = answer if isinstance(answer, dict) else {"content": answer}
                reason = message.pop("finish_reason", "stop")
                choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
                whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
                # As some servers do, it repeats the key that it does not like.
                error = {"error": {"message": f"bad request by {self.headers['Authorization']}"}}
                whole = error if status != 200 else whole
                data = answer if isinstance(answer, bytes) else json.dumps(whole).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Retry-After-Ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def rate(server: Server, answers: dict[str, Any], reference: str | None = "ref") -> list[Measurement]:
    server.answers = {key: value if isinstance(value, list) else [value] for key, value in answers.items()}
    metric = quality.load(MetricSpec(name="judge", model="m", endpoint=server.url, batch_size=4), no_device)
    try:
        return metric.measure([Item(f"prompt of {key}", key, reference) for key in answers])
    finally:
        metric.close()


def test_ratings_are_read_strictly_and_in_order(server: Server) -> None:
    answers = {
        "a": "Rating: 7",
        "b": "10",
        "c": "rating: 3/10.",
        "d": "Rating: 11",
        "e": "I would say 7",
        "f": "Rating: 7 because it is good",
        "g": "",
        "h": {"content": None, "refusal": "I can't"},
        "i": {"content": "Rating: 5", "finish_reason": "content_filter"},
        "j": "0",
        "k": "7.5",
    }
    measurements = rate(server, answers)
    assert [one.quality for one in measurements[:3]] == [7.0, 10.0, 3.0]
    kinds = [one.error_type for one in measurements[3:]]
    assert kinds == ["unparsable"] * 4 + ["refused"] * 2 + ["unparsable"] * 2
    assert all((one.quality is None) != (one.error_type is None) for one in measurements)


def test_the_question_is_fixed_and_asked_at_temperature_0(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # Key files end in a line break.
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    rate(server, {"a": "Rating: 7"})
    (request,) = server.requests
    assert (request["temperature"], request["model"]) == (0, "m")
    system, user = request["messages"]
    assert "from 1 to 10" in system["content"]
    assert user["content"] == "Prompt:\nprompt of a\n\nReference answer:\nref\n\nResponse to rate:\na"
    assert "Reference" not in question(Item("p", "r"))
    assert server.keys == ["Bearer sk-secret"]


def test_by_likeness_it_compares_the_answer_with_the_large_models(server: Server) -> None:
    server.answers = {"small's": ["Rating: 4"]}
    metric = quality.load(MetricSpec(name="judge", model="m", endpoint=server.url), no_device)
    items = [Item("p", answer, "large's", likeness=True) for answer in ("small's", "large's")]
    assert [one.quality for one in metric.measure(items)] == [4.0, 10.0]
    metric.close()
    (request,) = server.requests
    system, user = request["messages"]
    assert "compare two answers" in system["content"]
    assert "Reference answer:\nlarge's" in user["content"]


def test_a_transient_error_is_retried_and_a_lasting_one_is_the_rows_own(server: Server) -> None:
    measurements = rate(server, {"a": [500, 429, "Rating: 4"], "b": "Rating: 9", "c": 400})
    assert [one.quality for one in measurements] == [4.0, 9.0, None]
    assert measurements[2].error_type == "api_error"
    assert "HTTP 400" in (measurements[2].error or "")


def test_whatever_a_server_sends_is_a_measurement(server: Server) -> None:
    odd = [
        b"<html>", b"[]", b"null", b'{"choices": {}}', b'{"choices": ["x"]}', b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": ["x"]}}]}', b'{"choices": [{"message": {"content": "\\ud800"}}]}',
        b'{"choices": [{"message": {}, "finish_reason": "SAFETY"}]}', b"[" * 100_000,
        b'{"error": {"message": "\\ud800 overloaded", "code": 500}}', b'{"error": "later"}',
    ]  # fmt: skip
    measurements = rate(server, {f"answer {number}": body for number, body in enumerate(odd)})
    kinds = [one.error_type for one in measurements]
    assert kinds == ["unparsable"] * 8 + ["refused", "unparsable"] + ["api_error"] * 2
    assert measurements[-1].error == "an error inside an answer: later"
    for one in measurements:
        (one.error or "").encode()


@pytest.mark.parametrize("answer", [402, b'{"error": {"message": "Insufficient credits", "code": 402}}'])
def test_no_money_stops_the_command(server: Server, answer: Any) -> None:
    with pytest.raises(StoppedError, match="has no quota left; raise it and run again"):
        rate(server, {"a": answer})


def test_a_key_that_the_server_repeats_is_redacted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    (measurement,) = rate(server, {"a": 400})
    assert measurement.error is not None
    assert "bad request by Bearer ***" in measurement.error
    assert "sk-secret" not in measurement.error


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(401, "refuses the key in the environment variable OPENAI_API_KEY"), (404, "has no model 'm'")],
)
def test_what_would_fail_for_every_row_is_one_sentence(server: Server, status: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        rate(server, {"a": status})


def test_an_endpoint_that_is_down_and_a_missing_key_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="set the environment variable OPENAI_API_KEY"):
        quality.load(MetricSpec(name="judge", model="m"), no_device)
    metric = Judge(MetricSpec(name="judge", model="m", endpoint="http://127.0.0.1:9/v1"), retries=0)
    with pytest.raises(InputError, match=r"at 127\.0\.0\.1:9 cannot be reached"):
        metric.measure([Item("p", "r")])
