"""Mistral's batch jobs without a job of ours."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from batchroute.errors import InputError
from batchroute.generators.batch import mistral
from batchroute.generators.batch.mistral import MistralBatches
from batchroute.generators.settings import ModelSpec
from tests.support.vendor_server import VendorServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[VendorServer]:
    monkeypatch.setenv("MISTRAL_API_KEY", "sk-test")
    with VendorServer("mistral") as found:
        yield found


def api_of(server: VendorServer, **settings: Any) -> MistralBatches:
    given = {"backend": "batch", "provider": "mistral", "model": "large", "endpoint": server.url, "timeout": 2}
    return MistralBatches(ModelSpec.model_validate({**given, **settings}), 3.0)


def test_a_line_has_mistrals_fields_and_no_model(server: VendorServer) -> None:
    api = api_of(server, generation={"temperature": 0.5, "top_k": 3, "max_new_tokens": 7})
    line = json.loads(api.line("row-1", "hello", (1 << 40) + 5))
    assert line["custom_id"] == "row-1"
    assert line["body"] == {
        "messages": [{"role": "user", "content": "hello"}], "max_tokens": 7, "temperature": 0.5, "top_k": 3,
        "random_seed": 5,
    }  # fmt: skip


def test_a_batch_is_found_by_its_file_over_pages(server: VendorServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistral, "_PAGE", 2)
    api, begun = api_of(server), time.time()
    keys = [api.prepare("in.jsonl", api.line("row-1", f"a {number}", 0)) for number in range(5)]
    batches = [api.create(key, {"batchroute_run": "7"}) for key in keys]
    found = api.find(keys[0], begun)
    assert found is not None
    assert found.id == batches[0].id
    assert api.find(keys[0], begun + 10_000) is None, "older than it can be, whatever the clocks say"
    again = api.create(keys[0], {})
    assert api.find(keys[0], begun) is not None
    assert api.retrieve(again.id).status in ("cancelling", "cancelled"), "what is there twice is cancelled"


def test_why_a_batch_was_refused_is_told(server: VendorServer) -> None:
    server.batch_faults = ["fail_validation"]
    api = api_of(server)
    batch = api.create(api.prepare("in.jsonl", api.line("row-1", "a", 0)), {})
    while batch.status != "failed":
        batch = api.retrieve(batch.id)
    assert api.refusal(batch) == ("", "the input file is not valid")
    with pytest.raises(InputError, match="knows no batch x any more"):
        api.retrieve("x")
