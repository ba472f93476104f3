"""The backend `openai` while things go wrong: what is asked again and when, what fails a row, and what ends the run."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchroute.errors import BatchrouteError, InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.openai.generator import OpenAIGenerator
from batchroute.generators.openai.preflight import HARMLESS
from tests.generators.openai.openai_generators import KEY, generator, spec
from tests.support.openai_server import Fault, OpenAIServer, ServerProcess
from tests.support.openai_server.wire import ApiError

ROWS = [f"row {number}" for number in range(40)]
SECRET = "pass/word"
WAITS = (0.01, 0.2)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as found:
        yield found


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def ask(server: OpenAIServer | ServerProcess | str, prompts: list[str], **settings: Any) -> list[Response]:
    with generator(server, WAITS, **settings) as asked:
        return asked.generate(prompts, range(len(prompts)))


def one(server: OpenAIServer, fault: Any, **settings: Any) -> Response:
    """The response to a row that meets the fault."""
    server.faults["a"] = fault
    return ask(server, ["a"], **settings)[0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("408", "HTTP 408: Request timed out."),
        ("500", "HTTP 500: The server had an error."),
        ("502", "HTTP 502: The server had an error."),
        ("503", "HTTP 503: The engine is currently overloaded, please try again later."),
        ("529", "HTTP 529: The server had an error."),
        ({"kind": "429", "retry_after_ms": 1}, "HTTP 429: Rate limit reached for requests."),
        ("malformed", "the answer is not JSON"),
        ("html", "the answer is not JSON"),
        ("empty_choices", "the answer has no choices"),
        ("cut", "RemoteProtocolError: Server disconnected without sending a response."),
        ("cut_in_body", "RemoteProtocolError: peer closed connection"),
        ("hang", "no answer within 0.1 s"),
    ],
)
def test_what_may_pass_is_asked_again_until_the_retries_are_used_up(
    server: OpenAIServer, fault: Any, words: str
) -> None:
    patience = {"timeout": 0.1} if fault == "hang" else {}
    found = one(server, [fault, fault], retries=2, **patience)
    assert (found.text, found.error_type, found.error, found.attempts) == ("echo: a", None, None, 3)
    found = one(server, [fault, fault, fault], retries=2, **patience)
    assert (found.text, found.error_type, found.attempts) == (None, "api_error", 3)
    assert found.error is not None
    assert found.error.startswith(words)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("fault", "error_type", "words"),
    [
        ("400", "bad_request", "HTTP 400: The server had an error."),
        ({"kind": "400", "message": "No.\nNot at all."}, "bad_request", "HTTP 400: No."),
        ("context_overflow", "too_long", "HTTP 400: This model's maximum context length is 8192 tokens."),
        ("400_content_filter", "refused", "HTTP 400: The response was filtered due to the prompt triggering Azure"),
        ("refusal", "refused", "the model refused to answer"),
        ("content_filter", "refused", "a filter held the answer back"),
    ],
)
def test_what_is_the_rows_own_is_not_asked_again(server: OpenAIServer, fault: str, error_type: str, words: str) -> None:
    found = one(server, [fault])
    assert (found.text, found.error_type, found.attempts) == (None, error_type, 1)
    assert found.error is not None
    assert found.error.startswith(words)
    assert len(server.requests) == 1
    assert (found.input_tokens > 0) == (fault in ("refusal", "content_filter"))


def test_an_answer_without_content_is_an_empty_one(server: OpenAIServer) -> None:
    assert one(server, ["null_content"]) == Response("", "stop", 1, 0)


def test_an_answer_of_another_model_is_taken(server: OpenAIServer) -> None:
    assert one(server, ["wrong_model"]).text == "echo: a"


def test_a_context_that_is_too_long_fails_its_row_alone(server: OpenAIServer) -> None:
    server.settings.context_length = 5
    found = ask(server, ["a b", "a " * 6, "c"])
    assert [response.error_type for response in found] == [None, "too_long", None]


def test_nothing_is_asked_again_before_the_server_wants_it(server: OpenAIServer) -> None:
    waits = {
        "by seconds": (Fault("429", retry_after=1), 1.0),
        "by milliseconds": (Fault("429", retry_after_ms=300), 0.3),
        # A date has whole seconds: one that is two away may come after one and a bit.
        "by a date": (Fault("429", retry_after=2, http_date=True), 1.0),
        "overloaded": (Fault("503", retry_after=1), 1.0),
    }
    server.faults = {prompt: [fault] for prompt, (fault, _) in waits.items()}
    found = ask(server, [*waits, "at once"])
    assert [response.attempts for response in found] == [2, 2, 2, 2, 1]
    times = defaultdict(list)
    for request in server.requests:
        times[request.body["messages"][0]["content"]].append(request.time)
    for prompt, (_, seconds) in waits.items():
        first, second = times[prompt]
        assert seconds - 0.02 <= second - first < seconds + 1.5


@pytest.mark.parametrize(("status", "seconds", "words"), [("429", 3600, "60 min"), ("503", 86_400, "24 h 0 min")])
def test_a_server_that_wants_more_time_than_a_row_is_worth_ends_the_run_at_once(
    server: OpenAIServer, status: str, seconds: int, words: str
) -> None:
    server.faults["row 3"] = Fault(status, repeat=True, retry_after=seconds)
    begun = time.monotonic()
    with pytest.raises(StoppedError, match=rf"^127.* asks to wait {words}; run again after that: HTTP {status}: "):
        ask(server, ROWS)
    assert time.monotonic() - begun < 5


def test_rows_that_are_told_to_slow_down_while_others_are_answered_never_fail_by_it(server: OpenAIServer) -> None:
    server.settings.delay = 0.01
    server.faults["unlucky"] = [Fault("429", retry_after_ms=20)] * 10
    found = ask(server, ["unlucky", *ROWS * 8], retries=2, concurrency=4)
    assert [response.error_type for response in found] == [None] * 321
    assert found[0].attempts == 11


def test_a_share_of_faults_of_all_kinds_loses_nothing(server: OpenAIServer) -> None:
    for number, kind in enumerate(("500", "cut", "malformed", "html", "cut_in_body", "empty_choices")):
        server.random_fault(kind, 0.05, number)
    server.random_fault(Fault("429", retry_after_ms=5), 0.1, 9)
    prompts = [f"prompt {number}" for number in range(200)]
    found = ask(server, prompts)
    assert [response.text for response in found] == [f"echo: {prompt}" for prompt in prompts]
    assert sum(response.attempts for response in found) == len(server.requests) > 220


@pytest.mark.parametrize("settings", [{"max_concurrency": 3}, {"requests_per_second": 100}])
def test_limits_of_the_server_lose_nothing(server: OpenAIServer, settings: dict[str, Any]) -> None:
    server.settings.delay = 0.01
    for name, value in settings.items():
        setattr(server.settings, name, value)
    assert [response.text for response in ask(server, ROWS)] == [f"echo: {prompt}" for prompt in ROWS]


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        (
            "insufficient_quota",
            StoppedError,
            "the account at 127.0.0.1:{port} has no quota left; raise it and run again: HTTP 429: You exceeded your "
            "current quota, please check your plan and billing details.",
        ),
        (
            "401",
            InputError,
            "127.0.0.1:{port} refuses the key in the environment variable OPENAI_API_KEY: HTTP 401: Incorrect API key "
            "provided: ***.",
        ),
        ("403", InputError, "127.0.0.1:{port} forbids the request for 'small': HTTP 403: Country not supported."),
        (
            "404",
            InputError,
            "127.0.0.1:{port} has no model 'small', or the endpoint is not its base URL, which mostly ends in /v1: "
            "HTTP 404: The model does not exist or you do not have access to it.",
        ),
    ],
)
def test_what_every_row_would_meet_ends_the_run(
    server: OpenAIServer, fault: str, kind: type[BatchrouteError], sentence: str
) -> None:
    server.faults[""] = f"{fault}*"
    with pytest.raises(kind) as found:
        ask(server, ROWS)
    assert str(found.value) == sentence.format(port=server.port)
    # Those that were under way, and nothing after them.
    assert len(server.requests) <= 8


def test_a_model_that_is_not_there_and_a_wrong_address_are_found(server: OpenAIServer) -> None:
    with pytest.raises(InputError, match="has no model 'medium'"):
        ask(server, ["a"], model="medium")
    with pytest.raises(InputError, match="or the endpoint is not its base URL"):
        ask(server.url.removesuffix("/v1"), ["a"])


def test_a_row_that_is_forbidden_once_others_were_answered_fails_alone(server: OpenAIServer) -> None:
    server.faults["bad"] = "403*"
    with generator(server) as asked:
        asked.generate(["good"], [0])
        found = asked.generate(["bad", "fine"], [0, 0])
    assert [response.error_type for response in found] == ["bad_request", None]
    assert found[0].error == "HTTP 403: Country not supported."


def test_twenty_rows_that_fail_alike_end_the_run(server: OpenAIServer) -> None:
    server.faults[""] = Fault("400", repeat=True, message="No.")
    with pytest.raises(StoppedError) as found:
        ask(server, ROWS)
    assert str(found.value) == (
        f"20 rows in a row failed alike at 127.0.0.1:{server.port}: HTTP 400: No.; fix it and run again"
    )
    assert len(server.requests) < 40


def test_rows_of_one_kind_that_fail_do_not_stop_a_run_that_others_pass(server: OpenAIServer) -> None:
    long = [f"long {number:03}" for number in range(70)]
    server.faults = {prompt: [Fault("400", message="No.", repeat=True)] for prompt in long}
    found = ask(server, [*long, "fine 1", "fine 2"], concurrency=4)
    assert [response.error_type for response in found] == ["bad_request"] * 70 + [None] * 2
    # A harmless prompt is asked after 20 rows, and after 40 more if no answer comes between.
    assert len(server.requests) in (73, 74)


@pytest.mark.parametrize("kind", ["403", "400"])
def test_what_ends_the_run_quotes_no_prompt(server: OpenAIServer, kind: str) -> None:
    prompt = "my pension number is 4711, so what will I get?"
    server.faults[""] = Fault(kind, repeat=True, message=f"This was blocked: '{prompt}'")
    with pytest.raises((InputError, StoppedError)) as found:
        ask(server, [prompt] * 40)
    assert f"HTTP {kind} (the rest quotes a prompt and is not shown)" in str(found.value)
    assert "pension" not in str(found.value)


def test_the_row_itself_keeps_the_words_of_the_server(server: OpenAIServer) -> None:
    prompt = "my pension number is 4711, so what will I get?"
    server.faults["pension"] = Fault("400", message=f"bad: {prompt}")
    assert ask(server, [prompt])[0].error == f"HTTP 400: bad: {prompt}"


def test_errors_that_differ_only_by_a_number_are_alike(server: OpenAIServer) -> None:
    prompts = [*(f"{n:02} x" for n in range(40)), HARMLESS]
    server.faults = {prompt: [Fault("400", message=f"No, see req_{n}a.")] for n, prompt in enumerate(prompts)}
    with pytest.raises(StoppedError, match=r"^20 rows in a row .*: HTTP 400: No, see req_\d+a\.; fix it"):
        ask(server, [f"{n:02} x" for n in range(40)])


def test_rows_that_fail_alike_in_two_calls_are_counted_together(server: OpenAIServer) -> None:
    server.faults[""] = "400*"
    with generator(server) as asked:
        asked.generate(ROWS[:19], range(19))
        with pytest.raises(StoppedError):
            asked.generate(ROWS[19:20], [0])


@pytest.mark.parametrize("fault", ["context_overflow", "400_content_filter", "refusal"])
def test_rows_that_are_too_long_or_refused_never_end_the_run(server: OpenAIServer, fault: str) -> None:
    server.faults[""] = f"{fault}*"
    assert len(ask(server, ROWS)) == 40


def test_an_answer_between_failures_keeps_the_run_going(server: OpenAIServer) -> None:
    server.faults = {f"bad {number}": "400*" for number in range(45)}
    prompts = [f"bad {number}" if number % 15 else "good" for number in range(45)]
    found = ask(server, prompts, concurrency=1)
    assert sum(response.error_type == "bad_request" for response in found) == 42


def test_an_endpoint_that_is_down_ends_the_run(server: OpenAIServer) -> None:
    with pytest.raises(StoppedError) as found:
        ask("http://127.0.0.1:9/v1", ROWS, retries=2)
    assert str(found.value) == (
        "20 rows in a row failed alike at 127.0.0.1:9: ConnectError: All connection attempts failed; "
        "fix it and run again"
    )


def test_a_server_that_is_killed_and_comes_back_loses_no_row(tmp_path: Path) -> None:
    prompts = [f"prompt {number}" for number in range(150)]
    with ServerProcess(tmp_path, delay=0.02) as server:

        def restart() -> None:
            while len(server.served()) < 40:
                time.sleep(0.01)
            server.kill()
            time.sleep(0.2)
            server.restart()

        killer = threading.Thread(target=restart)
        killer.start()
        found = ask(server, prompts, concurrency=8, retries=50)
        killer.join()
        assert [response.text for response in found] == [f"echo: {prompt}" for prompt in prompts]
        assert sum(response.attempts > 1 for response in found) >= 1
        assert set(server.served()) == set(prompts)


def repeating(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's errors repeat all that authorizes the request, in several lines and forms."""

    def error(self: Fault, key: str | None = None) -> ApiError | None:
        text = f"You sent {key} ({key})\n{key}"
        return ApiError(int(self.kind), text, "x") if self.kind.isdigit() else None

    monkeypatch.setattr(Fault, "error", error)


@pytest.mark.parametrize("status", ["400", "401", "403", "404", "429", "500"])
@pytest.mark.parametrize("with_password", [False, True])
def test_secrets_are_in_no_error_no_row_and_no_log(
    server: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    status: str,
    with_password: bool,
) -> None:
    repeating(monkeypatch)
    planted = "sk-planted/key=="
    monkeypatch.setenv("OPENAI_API_KEY", f"{planted}\n")
    server.settings.key = None
    server.faults[""] = f"{status}*"
    endpoint = server.url.replace("//", "//me:pass%2Fword@") if with_password else server.url
    said = []
    with caplog.at_level(logging.DEBUG):
        for prompts in (["a"], ROWS):
            try:
                said += [str(response) for response in ask(endpoint, prompts, retries=1)]
            except BatchrouteError as error:
                said.append(f"{error!r} {error.__cause__!r}")
    out, err = capfd.readouterr()
    said += [record.getMessage() for record in caplog.records if record.name.startswith("batchroute")]
    assert any("You sent" in text and "***" in text for text in said)
    for text in (*said, out, err):
        for secret in (planted, SECRET, "pass%2Fword", "bWU6cGFzcy93b3Jk"):
            assert secret not in text


def test_nobody_is_asked_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    before = threading.active_count()
    with pytest.raises(InputError, match="needs a key: set the environment variable OPENAI_API_KEY"):
        OpenAIGenerator(spec(None))
    assert threading.active_count() == before


def test_a_server_of_ones_own_is_asked_without_a_key(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.settings.key = None
    assert ask(server, ["a"])[0].text == "echo: a"
    server.settings.key = KEY
    with pytest.raises(InputError, match="wants a key, and the environment variable OPENAI_API_KEY is not set"):
        ask(server, ["a"])
