"""Keys: what makes an answer another one, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchroute.config.job import JobModel
from batchroute.pipeline.cache.keys import RowKeys, folder_of
from batchroute.pipeline.context import Snapshot
from batchroute.storage.objects import folder_at
from batchroute.storage.receipts import Facts
from batchroute.storage.workdir import Workdir
from batchroute.tables.prompts import DIGEST

API: dict[str, Any] = {"backend": "openai", "model": "org/Big.Model", "endpoint": "https://user:pw@api.example.com/v1"}


def folder(**settings: Any) -> str:
    return folder_of(JobModel.model_validate({**API, **settings}), "text")


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint": "https://api.example.com/v1/"},
        {"endpoint": "https://other:secret@api.example.com/v1"},
        {"concurrency": 3, "retries": 0, "timeout": 5, "api_key_env": "KEY", "headers": {"x-team": "a"}},
        {"backend": "openai_batch", "batch_requests": 5},
        {"backend": "batch", "provider": "openai"},
        {"price": {"input": 1, "output": 2}, "on_failure": "large", "escalate": {"regex": "x"}},
    ],
)
def test_settings_that_change_no_answer_share_a_folder(settings: dict[str, Any]) -> None:
    assert folder(**settings) == folder()


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint": "https://api.example.com/v2"},
        {"endpoint": "http://api.example.com/v1"},
        {"endpoint": "https://api.example.com:8443/v1"},
        {"model": "another/Big.Model"},
        {"system": "Be brief."},
        {"template": "Q: {prompt}"},
        {"generation": {"max_new_tokens": 9}},
        {"generation": {"temperature": 0.5}},
        {"generation": {"temperature": 0.5, "seed": 1}},
        {"extra_body": {"tools": []}},
        {"response_format": {"type": "json_object"}},
        {"reasoning": "keep"},
        {"confidence": {"samples": 3}},
        {"confidence": {}},
    ],
)
def test_settings_that_change_answers_have_a_folder_of_their_own(settings: dict[str, Any]) -> None:
    assert folder(**settings) != folder()


def test_a_providers_own_endpoint_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    anthropic = {"backend": "anthropic", "endpoint": None}
    before = [folder(**anthropic), folder(endpoint=None)]
    assert before[0] == folder(backend="anthropic", endpoint="https://api.anthropic.com/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.example.com/v1")
    assert folder(**anthropic) == before[0]
    assert folder(endpoint=None) != before[1]


def test_a_folder_can_be_read_and_holds_no_slash_and_no_password() -> None:
    assert folder().startswith("big.model-")
    assert folder(model="../..").startswith("-")
    assert "pw" not in folder() + folder(model="..%2F..")
    assert folder_of(JobModel.model_validate(API), "messages") != folder()


def test_keys_are_digests_and_of_a_model_that_samples_depend_on_the_position(tmp_path: Path) -> None:
    work = Workdir(folder_at(str(tmp_path / "out")), "run")
    digests = [bytes([number % 4]) * 16 for number in range(10)]
    for unit, start in (("00000", 0), ("00001", 6)):
        column = pa.table({"digest": pa.array([None, *digests[1:6]] if start == 0 else digests[6:], DIGEST)})
        facts = Facts.of("run", unit, range(start, start + column.num_rows))
        work.stage("score").commit(facts, column.schema, column.to_batches())
    snapshot = Snapshot(
        run_id="run", fingerprint="", settings={}, files=[], rows=10, prompt_kind="text", chunk_rows=6, unit_rows=3,
        part_rows=6, prices={},
    )  # fmt: skip
    positions = np.array([1, 5, 7, 9], np.int64)
    greedy = RowKeys(work, snapshot, None).of(positions)
    assert [key.tobytes() for key in greedy] == [digests[at] for at in positions]
    sampled = [key.tobytes() for key in RowKeys(work, snapshot, 0).of(positions)]
    assert len({*sampled, *digests}) == 8
    assert sampled == [key.tobytes() for key in RowKeys(work, snapshot, 0).of(positions)]
    assert sampled != [key.tobytes() for key in RowKeys(work, snapshot, 1).of(positions)]
