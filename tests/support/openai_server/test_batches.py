"""The server's Files and Batch API, asked by the official client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types import Batch
from openai.types.chat import ChatCompletion

from tests.support.openai_server import Fault, OpenAIServer
from tests.support.openai_server.asking import TEN, connect, create, end, ids, line, read, upload
from tests.support.openai_server.settings import CHAT


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as found:
        yield found


@pytest.fixture
def client(server: OpenAIServer) -> Iterator[openai.OpenAI]:
    with connect(server) as found:
        yield found


def test_files_are_kept_and_deleted(server: OpenAIServer, client: openai.OpenAI) -> None:
    name = upload(client, ["a", "b"])
    found = client.files.retrieve(name)
    assert (found.bytes, found.filename, found.purpose) == (4, "in.jsonl", "batch")
    assert client.files.content(name).read() == b"a\nb\n"
    assert client.files.delete(name).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(name)
    for file, purpose in ((("in.txt", b"a"), "batch"), (("in.jsonl", b""), "batch"), (("in.jsonl", b"a"), "vision")):
        with pytest.raises(openai.BadRequestError):
            client.files.create(file=file, purpose=purpose)  # type: ignore[arg-type]
    kept = client.files.create(
        file=("in.jsonl", b"a\r\n--b"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert kept.expires_at == kept.created_at + 3600
    assert (client.files.content(kept.id).read(), server.files()) == (b"a\r\n--b", [kept.id])


def test_a_batch_goes_its_way(server: OpenAIServer, client: openai.OpenAI) -> None:
    batch = create(client, TEN, metadata={"unit": "7"})
    assert (batch.status, batch.metadata) == ("validating", {"unit": "7"})
    statuses = [client.batches.retrieve(batch.id).status for _ in range(3)]
    assert statuses == ["in_progress", "finalizing", "completed"]
    batch = client.batches.retrieve(batch.id)
    outputs = read(client, batch.output_file_id)
    assert ids(outputs) == [f"r{number}" for number in range(10)] != [one["custom_id"] for one in outputs]
    first = next(one for one in outputs if one["custom_id"] == "r0")
    assert (first["error"], first["response"]["status_code"]) == (None, 200)
    assert ChatCompletion.model_validate(first["response"]["body"]).choices[0].message.content == "echo: ask r0"
    assert batch.request_counts is not None
    assert batch.usage is not None
    assert batch.request_counts.model_dump() == {"completed": 10, "failed": 0, "total": 10}
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.error_file_id) == (20, 30, None)
    assert server.submitted == server.completed == {f"ask r{number}": 1 for number in range(10)}
    assert server.submitted_ids == {f"r{number}": 1 for number in range(10)}


def test_batches_are_listed_newest_first(server: OpenAIServer, client: openai.OpenAI) -> None:
    made = [create(client, TEN[:1]).id for _ in range(5)]
    page = client.batches.list(limit=2)
    assert ([one.id for one in page.data], page.has_more) == (made[:2:-1], True)
    assert [one.id for one in client.batches.list(limit=2)] == made[::-1] == server.batches()[::-1]
    assert client.batches.list(limit=2, after=made[2]).has_more is False
    with pytest.raises(openai.BadRequestError):
        client.batches.list(limit=101)


def test_steps_take_seconds_or_wait_for_the_test() -> None:
    with OpenAIServer(batch_seconds=0.1) as server, connect(server) as client:
        batch = create(client, TEN)
        time.sleep(0.15)
        assert next(iter(client.batches.list())).status == "in_progress"
        time.sleep(0.2)
        assert client.batches.retrieve(batch.id).status == "completed"
    with OpenAIServer(manual=True, batch_polls=0) as server, connect(server) as client:
        batches = [create(client, TEN) for _ in range(3)]
        assert {client.batches.retrieve(batch.id).status for batch in batches} == {"in_progress"}
        for batch, status in zip(batches, ("completed", "expired", "cancelled"), strict=True):
            assert server.finish(batch.id, status)["status"] == client.batches.retrieve(batch.id).status == status


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([*TEN, TEN[0]], "duplicate_custom_id"),
        ([*TEN[:2], line("x", model="large")], "mismatched_model"),
        ([line("x", model="other")], "model_not_found"),
        ([{**TEN[0], "url": "/v1/embeddings"}], "mismatched_url"),
        ([{**TEN[0], "method": "GET"}], "invalid_method"),
        ([{**TEN[0], "foo": 1}], "unknown_parameter"),
        ([{"custom_id": "x"}], "missing_required_parameter"),
        (["{"], "invalid_json_line"),
        ([line("x", temperature=float("nan"))], "invalid_json_line"),
        ([line(str(number)) for number in range(13)], "too_many_requests"),
        ([line("x", "a" * 3000)], "file_too_large"),
        ([""], "empty_file"),
    ],
)
def test_a_batch_that_is_not_valid_fails(lines: list[Any], code: str) -> None:
    with OpenAIServer(max_batch_requests=12, max_batch_bytes=3000) as server, connect(server) as client:
        batch = end(client, create(client, lines))
        assert batch.status == "failed"
        assert batch.errors is not None
        assert [one.code for one in batch.errors.data or []] == [code]
        assert not server.submitted


def test_a_batch_is_not_created_from_what_is_not_right(client: openai.OpenAI) -> None:
    name = upload(client, TEN)
    right = {"input_file_id": name, "endpoint": CHAT, "completion_window": "24h"}
    wrong: list[tuple[dict[str, Any], int]] = [
        ({"input_file_id": "file-x"}, 404),
        ({"endpoint": "/v1/embeddings"}, 400),
        ({"completion_window": "1h"}, 400),
        ({"metadata": {"a" * 65: ""}}, 400),
        ({"metadata": {"a": 1}}, 400),
        ({"foo": 1}, 400),
    ]
    for change, status in wrong:
        with pytest.raises(openai.APIStatusError) as found:
            client.post("/batches", body={**right, **change}, cast_to=Batch)
        assert found.value.status_code == status
    assert not client.batches.list().data


def test_lines_meet_the_faults_of_their_texts_and_bad_bodies_are_their_own(
    server: OpenAIServer, client: openai.OpenAI
) -> None:
    server.faults = {"r1": ["context_overflow"], "r2": ["refusal"], "r3": ["500"], "r4": ["cut"]}
    batch = end(client, create(client, [*TEN[:5], line("bad", foo=1)]))
    errors = {one["custom_id"]: one for one in read(client, batch.error_file_id)}
    assert {name: one["response"]["status_code"] for name, one in errors.items()} == {"r1": 400, "r3": 500, "bad": 400}
    assert errors["r1"]["response"]["body"]["error"]["code"] == "context_length_exceeded"
    outputs = {one["custom_id"]: one["response"]["body"] for one in read(client, batch.output_file_id)}
    assert outputs["r2"]["choices"][0]["message"]["refusal"]
    assert outputs.keys() == {"r0", "r2", "r4"}
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 3)


def test_output_files_are_not_what_they_should_be(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.batch_faults = [
        {"kind": "missing_lines", "custom_ids": ["r1", "r2"]},
        [{"kind": "missing_lines", "share": 0.4, "seed": 1}, {"kind": "wrong_ids", "count": 2}],
        Fault("duplicate_lines", contains="r3"),
        [Fault("line_error", custom_ids=("r1",), status=429), Fault("line_error", custom_ids=("r2",), status=None)],
        "malformed_line",
        "no_output_file",
    ]
    ten = ids(TEN)
    assert ids(read(client, end(client, create(client, TEN)).output_file_id)) == sorted({*ten} - {"r1", "r2"})
    found = ids(read(client, end(client, create(client, TEN)).output_file_id))
    assert len([one for one in found if one.startswith("unknown-")]) == 2
    assert len({*found} & {*ten}) < 10
    assert ids(read(client, end(client, create(client, TEN)).output_file_id)) == sorted([*ten, "r3"])
    batch = end(client, create(client, TEN))
    errors = {one["custom_id"]: one for one in read(client, batch.error_file_id)}
    assert errors["r1"]["response"]["status_code"] == 429
    assert (errors["r2"]["response"], errors["r2"]["error"]["code"]) == (None, "server_error")
    assert len(read(client, batch.output_file_id)) == 8
    batch = end(client, create(client, TEN))
    broken = 0
    for one in client.files.content(batch.output_file_id or "").text.splitlines():
        try:
            json.loads(one)
        except ValueError:
            broken += 1
    assert broken == 1
    batch = end(client, create(client, TEN))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("completed", None, None)
    assert end(client, create(client, TEN)).output_file_id


def test_batches_expire_fail_and_are_cancelled_by_others(server: OpenAIServer, client: openai.OpenAI) -> None:
    rest = Fault("cancel", rest=True)
    server.batch_faults = ["expire", "cancel", rest, "fail_validation", Fault("fail_validation", code="x", repeat=True)]
    expired, cancelled, told, limited, failed, again = (end(client, create(client, TEN)) for _ in range(6))
    assert (expired.status, cancelled.status, limited.status) == ("expired", "cancelled", "failed")
    assert len(read(client, expired.output_file_id)) == len(read(client, expired.error_file_id)) == 5
    assert {one["error"]["code"] for one in read(client, expired.error_file_id)} == {"batch_expired"}
    assert (len(read(client, cancelled.output_file_id)), cancelled.error_file_id) == (5, None)
    assert {one["error"]["code"] for one in read(client, told.error_file_id)} == {"batch_cancelled"}
    codes = [one.errors.data[0].code for one in (limited, failed, again) if one.errors and one.errors.data]
    assert codes == ["token_limit_exceeded", "x", "x"]
    assert server.submitted["ask r0"] == 3
    assert (server.completed["ask r0"], server.completed["ask r9"]) == (3, 0)


def test_a_batch_is_cancelled(server: OpenAIServer, client: openai.OpenAI) -> None:
    early, late = create(client, TEN), create(client, TEN)
    client.batches.retrieve(late.id)
    assert client.batches.cancel(early.id).status == client.batches.cancel(late.id).status == "cancelling"
    early, late = end(client, early), end(client, late)
    assert (early.status, early.output_file_id, late.status) == ("cancelled", None, "cancelled")
    assert len(read(client, late.output_file_id)) == 5
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(late.id)


def test_calls_of_the_batch_api_go_wrong(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.http_faults = {"upload_cut": 1, "create_500": 1, "create_cut": 1, "create_before": 1, "create_503_after": 1}
    with pytest.raises(openai.APIConnectionError):
        upload(client, TEN)
    name = upload(client, TEN)
    assert len(server.files()) == 2
    counts = []
    for expected in (
        openai.InternalServerError,
        openai.APIConnectionError,
        openai.APIConnectionError,
        openai.InternalServerError,
    ):
        with pytest.raises(expected):
            client.batches.create(input_file_id=name, endpoint=CHAT, completion_window="24h")
        counts.append(len(server.batches()))
    assert counts == [0, 1, 1, 2]
    server.http_faults = {"poll_500": 1, "list_500": 1, "download_cut": 1, "cancel_429": 1, "file_hang": 1}
    batch = server.batches()[0]
    with pytest.raises(openai.InternalServerError):
        client.batches.retrieve(batch)
    with pytest.raises(openai.InternalServerError):
        client.batches.list()
    with pytest.raises(openai.APIConnectionError):
        client.files.content(name)
    with pytest.raises(openai.RateLimitError):
        client.batches.cancel(batch)
    with pytest.raises(openai.APITimeoutError):
        client.files.retrieve(name, timeout=0.1)
    assert client.files.content(name).read().count(b"\n") == 10
    assert server.faulted["create_503_after"] == server.faulted["download_cut"] == 1
