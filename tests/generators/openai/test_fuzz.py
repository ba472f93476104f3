"""Whatever a server sends, each row ends with an answer or an error, after a limited number of requests."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchroute.config.job import JobModel
from batchroute.costs.prices import Price
from batchroute.errors import BatchrouteError, InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.batch.outcomes import RowOutcome
from batchroute.generators.batch.states import batch_of
from batchroute.generators.openai.batch_api import OpenAIBatches
from batchroute.generators.openai.chat_api import ChatApi
from batchroute.generators.openai.failures import Failure
from batchroute.generators.openai.generator import OpenAIGenerator
from batchroute.generators.settings import ModelSpec
from batchroute.pipeline.shards.answers import answers_table, counts, priced, schema_of
from tests.generators.openai.openai_generators import generator, spec

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([-1, 0, 10**20, 2**31, 401, 402, 404, 429, 500]))
WORDS = st.sampled_from(
    ["stop", "length", "tool_calls", "error", "content_filter", "insufficient_quota", "", "completed", "row-0"]
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(TEXT, WORDS), inner, max_size=3)),
    max_leaves=8,
)
COUNTS = (
    *("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"),
    *("cached_tokens", "cache_read_input_tokens", "input_tokens"),
)
USAGE = st.fixed_dictionaries({}, optional=dict.fromkeys(COUNTS, JSON))
MESSAGE = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("content", "refusal", "tool_calls", "function_call", "reasoning_content"), JSON)
)
CHOICE = st.fixed_dictionaries(
    {}, optional={"message": st.one_of(MESSAGE, JSON), "finish_reason": JSON, "error": JSON, "logprobs": JSON}
)
ANSWER = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"choices": st.one_of(JSON, st.lists(st.one_of(CHOICE, JSON), max_size=2))},
        optional={"usage": st.one_of(USAGE, JSON), "error": JSON, "detail": JSON, "base_resp": JSON},
    ),
    st.fixed_dictionaries({"error": st.fixed_dictionaries({}, optional={"message": JSON, "code": JSON, "type": JSON})}),
)
BODY = st.one_of(
    ANSWER.map(lambda answer: json.dumps(answer).encode()),
    ANSWER.map(lambda answer: json.dumps([answer]).encode("utf-16")),
    st.binary(max_size=60),
    st.just(b"[" * 100_000),
    st.just(b'{"a":' * 100_000),
)
STATUS = st.sampled_from([200, 200, 200, 204, 302, 400, 401, 402, 403, 404, 409, 413, 422, 429, 451, 500, 503, 529])
HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "retry-after", "retry-after-ms", "content-encoding", "location"]),
    st.sampled_from(["application/json", "text/html; charset=nonsense", "", "nan", "-1", "0", "9999999", "gzip", "/"]),
    max_size=3,
)
SOME = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
FEW = settings(SOME, max_examples=25)


def is_well_formed(response: Response) -> None:
    """A row with this response can be written, and its tokens and costs can be counted."""
    assert (response.text is None) <= (response.error_type is not None)
    model = JobModel.model_validate({"backend": "openai", "model": "m", "extra_body": {"tools": [{}]}})
    answers = priced(Price(input=1, output=2), [response], 1.0)
    table = answers_table([0], pa.nulls(1, pa.int64()), answers, schema_of(model))
    table.validate(full=True)
    assert all(count >= 0 for count in counts(answers).values())


@SOME
@given(answer=ANSWER)
@pytest.mark.parametrize("tools", [{}, {"tools": [{}]}])
def test_any_json_is_an_answer_or_a_failure(answer: Any, tools: dict[str, Any]) -> None:
    protocol = ChatApi(spec(extra_body=tools))
    # As it comes over a wire.
    body = json.loads(json.dumps(answer))
    found = protocol.response(body, protocol.request("a prompt", 0), 1)
    is_well_formed(found.response(1) if isinstance(found, Failure) else found)


class Server:
    """Answers every request with one reply.

    Attributes:
        reply: status, headers, body, and the share of the body that is sent.
        seen: how many requests came.
    """

    reply: tuple[int, dict[str, str], bytes, float] = (200, {}, b"", 1.0)
    seen = 0
    url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.seen += 1
        handler.rfile.read(int(handler.headers.get("content-length") or 0))
        status, headers, body, sent = self.reply
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(body)))
            # Else the client keeps the connection, and its next request may meet the server's closing of it.
            handler.send_header("connection", "close")
            handler.end_headers()
            handler.wfile.write(body[: int(len(body) * sent)])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_POST(self) -> None:
            found.answer(self)

        do_GET = do_POST  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        found.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
        yield found
        http.shutdown()


@pytest.fixture(scope="module")
def asked(server: Server) -> Iterator[OpenAIGenerator]:
    with generator(server.url, (0.001, 0.002), retries=1, timeout=5) as found:
        yield found


@pytest.fixture(scope="module")
def api(server: Server) -> Iterator[OpenAIBatches]:
    given = {"backend": "openai_batch", "model": "small", "endpoint": server.url, "timeout": 5}
    found = OpenAIBatches(ModelSpec.model_validate(given), patience=0.0)
    yield found
    found.close()


@FEW
@given(status=STATUS, headers=HEADERS, body=BODY, sent=st.sampled_from([1.0, 1.0, 0.5, 0.0]))
def test_any_reply_ends_the_row_or_the_run(
    server: Server, asked: OpenAIGenerator, status: int, headers: dict[str, str], body: bytes, sent: float
) -> None:
    server.reply, server.seen = (status, headers, body, sent), 0
    # As at the start of a run.
    asked._fatal = None
    try:
        responses = asked.generate(["one", "two"], [0, 0])
    except (InputError, StoppedError) as error:
        str(error).encode()
        responses = []
    for response in responses:
        is_well_formed(response)
    assert len(responses) in (0, 2)
    # The client follows a few redirects of each request.
    assert server.seen <= (4 if status != 302 else 100)


LINE = st.one_of(
    st.binary(max_size=30),
    JSON.map(lambda line: json.dumps(line).encode()),
    st.fixed_dictionaries(
        {"custom_id": st.sampled_from(["row-0", "row-1", "row-99", "", "x"])},
        optional={
            "response": st.one_of(
                JSON, st.fixed_dictionaries({}, optional={"status_code": st.one_of(STATUS, JSON), "body": ANSWER})
            ),
            "error": JSON,
        },
    ).map(lambda line: json.dumps(line).encode()),
)


@FEW
@given(lines=st.lists(LINE, max_size=5))
def test_any_file_of_answers_gives_outcomes_of_known_rows(
    server: Server, api: OpenAIBatches, lines: list[bytes]
) -> None:
    server.reply = 200, {}, b"\n".join(lines), 1.0
    batch = batch_of({"id": "b", "status": "completed", "output_file_id": "f", "error_file_id": ""})
    found: dict[str, RowOutcome] = dict(api.outcomes(batch, lambda name: "a prompt", {"row-0", "row-1"}))
    assert found.keys() <= {"row-0", "row-1"}
    if found:
        api.hopeless(batch, list(found.values()))
    for outcome in found.values():
        is_well_formed(outcome.response)


@FEW
@given(status=STATUS, headers=HEADERS, body=BODY, sent=st.sampled_from([1.0, 0.5]))
def test_any_reply_to_a_call_of_the_batch_api_is_a_batch_or_an_error(
    server: Server, api: OpenAIBatches, status: int, headers: dict[str, str], body: bytes, sent: float
) -> None:
    server.reply, server.seen = (status, headers, body, sent), 0
    calls = (
        lambda: api.prepare("in.jsonl", b"{}"),
        lambda: api.create("file-1", {}),
        lambda: api.retrieve("b"),
        lambda: api.find("file-1", 0.0),
        lambda: api.cancel("b"),
        lambda: api.preflight("longest", "short"),
    )
    for call in calls:
        try:
            call()
        except BatchrouteError as error:
            str(error).encode()
    assert server.seen <= (20 if status != 302 else 200)
