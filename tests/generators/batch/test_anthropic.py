"""Anthropic's Message Batches without a job: how a batch is found that has no name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from batchroute.errors import InputError
from batchroute.generators.batch.anthropic import AnthropicBatches
from batchroute.generators.batch.api import InDoubtError
from batchroute.generators.batch.states import ENDED, ProviderBatch
from batchroute.generators.settings import ModelSpec
from tests.support.vendor_server import VendorServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[VendorServer]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    with VendorServer("anthropic") as found:
        yield found


@pytest.fixture
def api(server: VendorServer) -> Iterator[AnthropicBatches]:
    found = AnthropicBatches(spec(server), 5.0)
    yield found
    found.close()


def spec(server: VendorServer, **settings: Any) -> ModelSpec:
    given = {"backend": "batch", "provider": "anthropic", "model": "large", "endpoint": server.url, "timeout": 0.5}
    return ModelSpec.model_validate({**given, **settings})


def submit(api: AnthropicBatches, rows: int = 3) -> tuple[str, ProviderBatch]:
    """The key and the batch of so many rows."""
    data = b"".join(api.line(f"row-{number}", f"prompt {number}", 0) for number in range(rows))
    key = api.prepare("name", data)
    return key, api.create(key, {}, lambda: data)


def end(api: AnthropicBatches, batch: ProviderBatch) -> ProviderBatch:
    while batch.status not in ENDED:
        batch = api.retrieve(batch.id)
    return batch


def test_results_are_matched_by_the_ids_without_the_token(server: VendorServer, api: AnthropicBatches) -> None:
    key, batch = submit(api)
    assert all(name.startswith(f"{key}_row-") for name in server.submitted_ids)
    found = dict(api.outcomes(end(api, batch), lambda name: "", {"row-0", "row-1", "row-2"}))
    assert {name: one.response.text for name, one in found.items()} == {
        f"row-{number}": f"echo: prompt {number}" for number in range(3)
    }


def test_a_batch_is_found_once_its_results_tell_the_token_and_is_in_doubt_before(
    server: VendorServer, api: AnthropicBatches
) -> None:
    server.settings.manual = True
    begun = time.time()
    key, batch = submit(api)
    _, other = submit(api, rows=2)
    with pytest.raises(InDoubtError, match=f"tells only when {batch.id} has ended"):
        api.find(key, begun, requests=3)
    assert api.find("another", begun, requests=4) is None, "none has as many requests"
    assert api.find("another", begun, requests=3, known=lambda: [batch.id]) is None, "it is known to be another's"
    assert api.find("another", begun + 10_000, requests=3) is None, "older than it can be, whatever the clocks say"
    server.finish(batch.id.removeprefix("msgbatch_"))
    found = api.find(key, begun, requests=3)
    assert found is not None
    assert found.id == batch.id
    assert api.find("another", begun, requests=3) is None
    assert api.retrieve(other.id).status == "in_progress"


def test_batches_are_found_over_pages(api: AnthropicBatches, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.time()
    batches = [submit(api, rows=1) for _ in range(3)]
    for _, batch in batches:
        end(api, batch)
    read = api._read
    monkeypatch.setattr(api, "_read", lambda path, given=None: read(path, given and {**given, "limit": 1}))
    assert len(list(api._since(begun))) == 3
    key, batch = batches[0]
    found = api.find(key, begun, requests=1)
    assert found is not None
    assert found.id == batch.id


@pytest.mark.parametrize("fault", ["create_cut", "create_500", "create_hang", "create_half"])
def test_a_paid_call_without_an_answer_is_not_repeated(server: VendorServer, api: AnthropicBatches, fault: str) -> None:
    server.http_faults = {fault: 1}
    with pytest.raises(InDoubtError, match="gave no answer to the call that submits them"):
        submit(api)
    assert len(server.batches()) == (fault in ("create_cut", "create_half"))


def test_a_paid_call_that_was_refused_for_now_is_repeated_while_its_lease_lasts(
    server: VendorServer, api: AnthropicBatches
) -> None:
    server.http_faults = {"create_429": 1}
    submit(api)
    data = api.line("row-0", "a", 0)
    with pytest.raises(InDoubtError, match="took no call that submits them in time"):
        api.create(api.prepare("name", data), {}, lambda: data, since=time.time() - 1)
    assert len(server.batches()) == 1


def test_the_command_that_cancels_holds_no_key(api: AnthropicBatches) -> None:
    words = api.cancel_command("msgbatch_1")
    assert '-H "x-api-key: $ANTHROPIC_API_KEY" -H "anthropic-version: 2026-10-21"' in words
    assert words.endswith("/v1/messages/batches/msgbatch_1/cancel")
    assert "sk-test" not in words


def test_a_batch_that_is_gone_is_named(api: AnthropicBatches) -> None:
    with pytest.raises(InputError, match="knows no batch msgbatch_x any more"):
        api.retrieve("msgbatch_x")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"provider": None}, "provider is missing: the backend batch asks the Batch API of one of openai, anthropic"),
        ({"generation": {"temperature": 0.5}}, "generation.temperature: Anthropic's API takes none"),
        ({"confidence": {"logprobs": True}}, "confidence.logprobs: batches of anthropic bring no log-probabilities"),
        ({"concurrency": 3}, "concurrency is a setting of the backend anthropic and openai"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_job_file(
    server: VendorServer, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        spec(server, **settings)
