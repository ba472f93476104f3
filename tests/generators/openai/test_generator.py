"""The backend `openai` while all goes well: what is asked, how much at a time, and how it ends."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from batchroute import generators
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.openai.generator import _WAITS, OpenAIGenerator, _backoff
from batchroute.generators.openai.pacing import Rate
from tests.generators.openai.openai_generators import KEY, generator, spec
from tests.support.openai_server import OpenAIServer
from tests.support.tiny_models import tiny_tokenizer
from tests.support.waiting import wait_for

ROWS = [f"row {number}" for number in range(100)]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as found:
        yield found


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def texts(responses: list[Response]) -> list[str | None]:
    return [response.text for response in responses]


def test_answers_come_in_the_order_of_the_prompts_whatever_they_take(server: OpenAIServer) -> None:
    chance = random.Random(0)
    server.faults = {prompt: [{"kind": "slow", "seconds": chance.random() / 10}] for prompt in ROWS[:20]}
    with generator(server) as asked:
        found = asked.generate(ROWS, range(100))
    assert texts(found) == [f"echo: {prompt}" for prompt in ROWS]
    assert {response.attempts for response in found} == {1}
    assert server.served == dict.fromkeys(ROWS, 1)


def test_of_rows_with_one_long_beginning_the_first_is_asked_alone(server: OpenAIServer) -> None:
    documents = ["a river " * 700, "the stone " * 700]
    rows = [f"{documents[number % 2]}{number}" for number in range(8)] + ["another"]
    # The row that is asked first of a document waits for its answer until the test lets it go.
    server.settings.held = {rows[0]}
    with generator(server, generation={"max_new_tokens": 9_000}) as asked, ThreadPoolExecutor(1) as pool:
        answering = pool.submit(asked.generate, rows, range(9))
        wait_for(lambda: len(server.requests) == 6)
        arrived = [one.body["messages"][0]["content"] for one in server.requests]
        assert sorted(arrived) == sorted([rows[0], *rows[1::2], "another"])
        server.settings.held = ()
        assert texts(answering.result()) == [f"echo: {row}" for row in rows]
        assert server.served == dict.fromkeys(rows, 1)
        # The provider still has them.
        server.settings.held = {rows[2]}
        answering = pool.submit(asked.generate, [rows[2], rows[4], rows[6]], range(3))
        wait_for(lambda: len(server.requests) == 12)
        server.settings.held = ()
        answering.result()


def test_nothing_is_asked_for_no_prompts(server: OpenAIServer) -> None:
    with generator(server) as asked:
        assert asked.generate([], []) == []
    assert not server.requests


def test_each_row_is_sent_with_its_seed_and_all_settings(server: OpenAIServer) -> None:
    server.settings.extra_fields = {"top_k", "min_p"}
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop": ["row 1"], "max_new_tokens": 9}
    settings = {"system": "Be brief.", "template": "Q: {prompt}", "extra_body": {"min_p": 0.1}}
    with generator(server, generation=sampling, **settings) as asked:
        found = asked.generate(ROWS[:3], [5, 6, 7])
    assert texts(found) == ["echo: Q: row 0", "echo: Q: ", "echo: Q: row 2"]
    bodies = {one.body["messages"][1]["content"]: one.body for one in server.requests}
    assert [bodies[f"Q: row {number}"]["seed"] for number in range(3)] == [5, 6, 7]
    assert bodies["Q: row 0"] == {
        "model": "small",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q: row 0"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop": ["row 1"],
        "seed": 5,
        "min_p": 0.1,
    }


def test_the_servers_usage_is_kept(server: OpenAIServer) -> None:
    server.settings.cached_tokens, server.settings.reasoning_tokens = 1, 5
    with generator(server, generation={"max_new_tokens": 7}) as asked:
        assert asked.generate(["how are you"], [0]) == [
            Response("echo: how", "length", 3, 7, cached_tokens=1, reasoning_tokens=5)
        ]


def test_without_usage_the_named_tokenizer_counts(server: OpenAIServer, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    server.faults[""] = "no_usage*"
    with generator(server, tokenizer=str(tmp_path)) as asked:
        (found,) = asked.generate(["how are you"], [0])
    counts = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("how are you", found.text)]
    assert found == Response("echo: how are you", "stop", *counts, estimated=True)
    with generator(server) as asked:
        assert asked.generate(["how are you"], [0]) == [Response("echo: how are you", "stop", 7, 5, estimated=True)]


def test_a_tokenizer_that_is_not_there_is_found_before_anything_is_asked(server: OpenAIServer) -> None:
    with pytest.raises(InputError, match="tokenizer 'no/such'"), generator(server, tokenizer="no/such"):
        pass


def test_texts_that_break_the_response_format_fail_and_are_kept(server: OpenAIServer) -> None:
    server.settings.answer = lambda body: '{"a": 1}' if body["messages"][-1]["content"] == "good" else None
    given = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    found = generators.load(spec(server.url, response_format=given), lambda: torch.device("cpu"))
    good, bad = found.generate(["good", "bad"], [0, 0])
    found.close()
    assert (good.text, good.error_type) == ('{"a": 1}', None)
    assert (bad.text, bad.error_type, bad.output_tokens) == ("echo: bad", "invalid_response", 2)
    assert server.requests[0].body["response_format"] == given


@pytest.mark.parametrize("concurrency", [1, 5, 20])
def test_no_more_than_the_concurrency_are_under_way(server: OpenAIServer, concurrency: int) -> None:
    rows = 4 * concurrency
    # The first half is answered, which lets the concurrency grow; the others wait until as many wait as there may be.
    server.faults |= dict.fromkeys(ROWS[2 * concurrency : rows], "hang*")
    with generator(server, concurrency=concurrency) as asked, ThreadPoolExecutor(1) as threads:
        call = threads.submit(asked.generate, ROWS[:rows], range(rows))
        deadline = time.monotonic() + 30
        while server.max_in_flight < concurrency and time.monotonic() < deadline:
            time.sleep(0.01)
        asked.close()
        with pytest.raises(CancelledError):
            call.result()
    assert server.max_in_flight == concurrency


def test_two_units_share_the_concurrency_and_the_last_answers_of_one_do_not_hold_up_the_other(
    server: OpenAIServer,
) -> None:
    server.settings.held = {"row 49"}
    done: dict[int, list[Response]] = {}

    def ask(first: int) -> None:
        done[first] = asked.generate(ROWS[first : first + 50], range(50))
        # The first unit waits for its last answer until the second one has all of its answers.
        server.settings.held = ()

    with generator(server, concurrency=10) as asked, ThreadPoolExecutor(2) as threads:
        list(threads.map(ask, (0, 50)))
        assert asked.units_at_once == 2
    assert list(done) == [50, 0]
    assert texts(done[0] + done[50]) == [f"echo: {prompt}" for prompt in ROWS]
    assert server.max_in_flight <= 10


def test_requests_a_minute_are_held(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    take, starts = Rate.take, []

    def recorded(rate: Rate, amount: float, now: float) -> float:
        wait = take(rate, amount, now)
        starts.append(now + wait)
        return wait

    monkeypatch.setattr(Rate, "take", recorded)
    with generator(server, requests_per_minute=1200) as asked:
        begun = time.monotonic()
        asked.generate(ROWS[:40], range(40))
        took = time.monotonic() - begun
    assert len(starts) == len(server.requests) == 40
    # 20 a second, and those of a second at once.
    for second in (0.2, 0.5, 0.9):
        assert sum(start <= starts[0] + second for start in starts) <= 20 * (1 + second) + 1
    assert took >= max(starts) - starts[0] > 0.8


def test_tokens_a_minute_are_held(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[float] = []
    take, correct = Rate.take, Rate.correct
    monkeypatch.setattr(Rate, "take", lambda rate, amount, now: counted.append(amount) or take(rate, amount, now))
    monkeypatch.setattr(Rate, "correct", lambda rate, amount: counted.append(amount) or correct(rate, amount))
    with generator(server, tokens_per_minute=30_000, generation={"max_new_tokens": 20}) as asked:
        begun = time.monotonic()
        found = asked.generate([f"prompt {number}" for number in range(200)], range(200))
        took = time.monotonic() - begun
    assert sum(response.input_tokens + response.output_tokens for response in found) == 1000
    # 500 a second, and those of a second at once.
    assert took > 0.9
    # 26 of a request are reserved: 4 and 2 for the prompt, 20 for the answer. The 5 that are used count in the end.
    assert sum(amount for amount in counted if amount > 0) >= 200 * 26
    assert sum(counted) == pytest.approx(1000)


def call(asked: OpenAIGenerator) -> tuple[threading.Thread, list[BaseException]]:
    """A call in a thread of its own, and what it raises."""
    raised: list[BaseException] = []

    def generate() -> None:
        try:
            asked.generate(ROWS, range(100))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=generate)
    thread.start()
    return thread, raised


def test_close_ends_calls_that_hang_and_leaves_no_thread(server: OpenAIServer) -> None:
    server.faults[""] = "hang*"
    before = set(threading.enumerate())
    with generator(server, concurrency=10) as asked:
        calls = [call(asked) for _ in range(2)]
        deadline = time.monotonic() + 10
        while server.max_in_flight < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        begun = time.monotonic()
        asked.close()
        for thread, _ in calls:
            thread.join(5)
        assert time.monotonic() - begun < 1
    assert [type(raised[0]) for _, raised in calls] == [CancelledError] * 2
    deadline = time.monotonic() + 1
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


def test_close_ends_calls_that_wait_to_ask_again(server: OpenAIServer) -> None:
    server.faults[""] = "503*"
    with generator(server, retries=50) as asked:
        thread, _ = call(asked)
        time.sleep(0.2)
        begun = time.monotonic()
        asked.close()
        thread.join(5)
        assert time.monotonic() - begun < 1


def test_nothing_is_asked_once_it_is_closed(server: OpenAIServer) -> None:
    with generator(server) as asked:
        asked.close()
        with pytest.raises(StoppedError, match=r"^the generator is closed$"):
            asked.generate(["a"], [0])


def test_calls_that_race_with_close_end_all_the_same(server: OpenAIServer) -> None:
    for _ in range(20):
        with generator(server) as asked:
            calls = [call(asked) for _ in range(3)]
            asked.close()
        for thread, _ in calls:
            thread.join(5)
            assert not thread.is_alive()


def test_settings_of_the_interface(server: OpenAIServer) -> None:
    with generator(server, concurrency=100) as asked:
        assert (asked.load_seconds, asked.rows_at_a_time, asked.units_at_once, tuple(asked.notes)) == (0, 800, 5, ())
    with generator(server, concurrency=1) as asked:
        assert (asked.rows_at_a_time, asked.units_at_once) == (256, 2)


def test_nothing_of_prompts_answers_and_keys_is_logged(server: OpenAIServer, caplog: pytest.LogCaptureFixture) -> None:
    server.faults["row 1"] = ["500"]
    with caplog.at_level(logging.DEBUG), generator(server) as asked:
        asked.generate(["row 1", "row 2"], [0, 0])
    assert not [record for record in caplog.records if record.name.startswith("batchroute")]


def test_the_wait_between_attempts_grows_to_a_minute_and_stays_there() -> None:
    assert 0.25 <= _backoff(1, *_WAITS) <= 0.5
    assert 1.0 <= _backoff(3, *_WAITS) <= 2.0
    for attempts in (20, 1_024, 1_025, 10**6):
        assert 30.0 <= _backoff(attempts, *_WAITS) <= 60.0
