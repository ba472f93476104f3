"""The Batch API as the backend `openai_batch` uses it, without a job."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from batchroute.errors import InputError, StoppedError
from batchroute.generators.batch.files import files
from batchroute.generators.batch.outcomes import RowOutcome
from batchroute.generators.batch.states import ENDED, ProviderBatch, batch_of
from batchroute.generators.openai.batch_api import OpenAIBatches
from batchroute.generators.settings import ModelSpec
from tests.support.openai_server import OpenAIServer

PROMPTS = [f"prompt {number}" for number in range(10)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as found:
        yield found


@pytest.fixture
def api(server: OpenAIServer) -> Iterator[OpenAIBatches]:
    found = api_of(server)
    yield found
    found.close()


def api_of(server: OpenAIServer, patience: float = 10.0, **settings: Any) -> OpenAIBatches:
    spec = {"backend": "openai_batch", "model": "small", "endpoint": server.url, "timeout": 5, **settings}
    return OpenAIBatches(ModelSpec.model_validate(spec), patience)


def upload(api: OpenAIBatches, prompts: list[str] = PROMPTS) -> str:
    lines = [api.line(f"row-{number}", prompt, 0) for number, prompt in enumerate(prompts)]
    return api.prepare("in.jsonl", b"".join(lines))


def end(api: OpenAIBatches, batch: ProviderBatch) -> ProviderBatch:
    while batch.status not in ENDED:
        batch = api.retrieve(batch.id)
    return batch


def outcomes(api: OpenAIBatches, batch: ProviderBatch) -> dict[str, RowOutcome]:
    known = {f"row-{number}" for number in range(len(PROMPTS))}
    return dict(api.outcomes(end(api, batch), lambda name: PROMPTS[int(name.removeprefix("row-"))], known))


def test_a_line_is_a_whole_request_on_one_line(server: OpenAIServer) -> None:
    api = api_of(server, generation={"max_new_tokens": 7, "temperature": 0.5}, system="be\nbrief")
    line = api.line("row-3", "two\nlines, Zürich \u2028", 42)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found = json.loads(line)
    assert (found["custom_id"], found["method"], found["url"]) == ("row-3", "POST", "/v1/chat/completions")
    assert found["body"]["messages"] == [
        {"role": "system", "content": "be\nbrief"}, {"role": "user", "content": "two\nlines, Zürich \u2028"},
    ]  # fmt: skip
    assert (found["body"]["model"], found["body"]["max_tokens"], found["body"]["seed"]) == ("small", 7, 42)


def test_answers_are_matched_by_id_in_whatever_order_they_come(server: OpenAIServer, api: OpenAIBatches) -> None:
    found = outcomes(api, api.create(upload(api), {"run": "7"}))
    assert list(found) != sorted(found), "the server shuffles its lines"
    for number, prompt in enumerate(PROMPTS):
        assert found[f"row-{number}"].response.text == f"echo: {prompt}"
        assert not found[f"row-{number}"].again
    assert server.batch(server.batches()[0])["metadata"] == {"run": "7"}


@pytest.mark.parametrize(
    ("fault", "error_type", "again", "fatal"),
    [
        ("context_overflow", "too_long", False, None),
        ("400_content_filter", "refused", False, None),
        ("refusal", "refused", False, None),
        ("400", "bad_request", False, None),
        ("500", "api_error", True, None),
        ("429", "api_error", True, None),
        ("empty_choices", "api_error", True, None),
        ("insufficient_quota", "api_error", True, StoppedError),
        ("401", "api_error", True, InputError),
        ("404", "bad_request", True, InputError),
    ],
)
def test_what_a_line_says_tells_whether_another_batch_may_bring_better(
    server: OpenAIServer, api: OpenAIBatches, fault: str, error_type: str, again: bool, fatal: type[Exception] | None
) -> None:
    server.faults = {"prompt 3": [fault]}
    found = outcomes(api, api.create(upload(api), {}))
    outcome = found["row-3"]
    assert (outcome.response.error_type, outcome.again) == (error_type, again)
    assert outcome.fatal is None if fatal is None else isinstance(outcome.fatal, fatal)
    assert "sk-test" not in str(outcome)
    assert sum(other.response.text is not None for other in found.values()) == 9


def test_lines_that_cannot_be_read_say_nothing(server: OpenAIServer, api: OpenAIBatches) -> None:
    server.batch_faults = ["malformed_line", "no_output_file", {"kind": "line_error", "status": None}]
    assert len(outcomes(api, api.create(upload(api), {}))) == 9
    assert outcomes(api, api.create(upload(api), {})) == {}
    (failed,) = [one for one in outcomes(api, api.create(upload(api), {})).values() if one.again]
    assert failed.response.error == "the batch says server_error"


def test_junk_instead_of_lines_says_nothing_either(api: OpenAIBatches, monkeypatch: pytest.MonkeyPatch) -> None:
    junk = [b"\xff\xfe", b"[]", b"7", b'{"custom_id": 7}', b"[" * 100_000, b'{"custom_id": "row-1"}', b""]
    junk.append(b'{"custom_id": "row-2", "response": {"status_code": "x", "body": "<html>"}}')
    junk.append(
        b'{"custom_id": "of another", "response": {"status_code": 200, "body": {"choices": [{"message": {}}]}}}'
    )
    junk.append(b'{"custom_id": "row-3", "response": {"status_code": 200, "body": null}}')
    monkeypatch.setattr(api, "_download", lambda name: b"\n".join(junk))
    batch = batch_of({"id": "b", "status": "completed", "output_file_id": "file-1", "error_file_id": ""})
    known = {f"row-{number}" for number in range(10)}
    found = dict(api.outcomes(batch, lambda name: "a prompt", known))
    assert {name: (one.response.error_type, one.again) for name, one in found.items()} == dict.fromkeys(
        ("row-1", "row-2", "row-3"), ("api_error", True)
    )


@pytest.mark.parametrize(
    "fault", ["upload_cut", "upload_500", "poll_500", "poll_429", "download_cut", "download_half", "list_500"]
)
def test_a_free_call_is_repeated(server: OpenAIServer, api: OpenAIBatches, fault: str) -> None:
    server.http_faults = {fault: 2}
    begun = time.time()
    batch = api.create(upload(api), {})
    found = api.find(batch.key, begun)
    assert found is not None
    assert found.id == batch.id
    assert len(outcomes(api, batch)) == 10
    assert server.faulted[fault] == 2
    assert len(server.batches()) == 1


@pytest.mark.parametrize("fault", ["create_cut", "create_500_after", "create_500", "create_before", "create_hang"])
def test_a_batch_is_created_once_whatever_becomes_of_the_call(server: OpenAIServer, fault: str) -> None:
    api = api_of(server, timeout=0.5)
    server.http_faults = {fault: 2}
    batch = api.create(upload(api), {})
    assert server.batches() == [batch.id]
    assert len(outcomes(api, batch)) == 10
    assert set(server.submitted.values()) == {1}


def test_a_batch_is_found_by_its_file_and_what_is_there_twice_is_cancelled(
    server: OpenAIServer, api: OpenAIBatches
) -> None:
    begun, mine, other = time.time(), upload(api), upload(api)
    assert api.find(mine, begun) is None
    first, _ = api.create(mine, {}), api.create(other, {})
    again = api.create(mine, {})
    found = api.find(mine, begun)
    assert found is not None
    assert found.id == first.id
    assert server.batch(again.id)["status"] in ("cancelling", "cancelled")
    assert server.batch(first.id)["status"] not in ("cancelling", "cancelled")
    assert api.find(mine, begun + 10_000) is None, "older than it can be, whatever the clocks say"


def test_a_batch_that_has_ended_meanwhile_is_cancelled_without_a_word(server: OpenAIServer, api: OpenAIBatches) -> None:
    batch = end(api, api.create(upload(api), {}))
    api.cancel(batch.id)
    assert server.batch(batch.id)["status"] == "completed"
    running = api.create(upload(api), {})
    api.cancel(running.id)
    api.cancel(running.id)
    assert end(api, running).status == "cancelled"


def test_two_runs_of_one_job_do_not_share_an_idempotency_key(server: OpenAIServer, api: OpenAIBatches) -> None:
    for _ in range(2):
        api.create(upload(api), {})
    keys = [seen.headers["idempotency-key"] for seen in server.requests if seen.path == "/v1/batches"]
    assert len(set(keys)) == 2


def test_why_a_batch_was_refused_is_told_with_its_line(server: OpenAIServer, api: OpenAIBatches) -> None:
    twice = api.prepare("in.jsonl", api.line("row-1", "a", 0) * 2)
    batch = end(api, api.create(twice, {}))
    assert batch.status == "failed"
    assert api.refusal(batch) == (
        "duplicate_custom_id", "duplicate_custom_id: The custom_id 'row-1' is a duplicate. (line 2)",
    )  # fmt: skip
    assert api.refusal(batch_of({"id": "b", "status": "failed", "errors": None})) == ("", "no reason is given")


def test_an_endpoint_that_does_not_answer_stops_the_run_after_a_while() -> None:
    spec = ModelSpec(backend="openai_batch", model="small", endpoint="http://127.0.0.1:9/v1")
    with pytest.raises(StoppedError, match=r"127.0.0.1:9 does not answer: ConnectError: .*; run again to go on"):
        OpenAIBatches(spec, 0.5).prepare("in.jsonl", b"{}\n")


def test_a_wrong_key_is_the_users_to_fix_and_not_repeated(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key")
    with pytest.raises(InputError, match="refuses the key in the environment variable OPENAI_API_KEY") as found:
        upload(api_of(server))
    assert "sk-wrong-key" not in str(found.value)
    assert len(server.requests) == 1


def test_what_is_not_there_is_named(server: OpenAIServer, api: OpenAIBatches) -> None:
    with pytest.raises(InputError, match="knows no batch batch_x any more, or not with this key: HTTP 404"):
        api.retrieve("batch_x")
    with pytest.raises(InputError, match="knows no file file-x any more"):
        api.create("file-x", {})
    spec = {"backend": "openai_batch", "model": "small", "endpoint": server.url.removesuffix("/v1")}
    with pytest.raises(InputError, match="has no Batch API, or the endpoint is not its base URL"):
        upload(OpenAIBatches(ModelSpec.model_validate(spec)))


def test_lines_are_gathered_to_files_of_so_many_requests_and_bytes() -> None:
    lines = [(number, b"x" * 10) for number in range(10)]
    assert [keys for keys, _ in files(lines, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    found = list(files(lines, 50_000, 30))
    assert [keys for keys, _ in found] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert b"".join(data for _, data in found) == b"x" * 100
    assert [keys for keys, _ in files([(0, b"x" * 50), (1, b"x")], 50_000, 30)] == [[0], [1]]
    assert list(files([], 4)) == []
