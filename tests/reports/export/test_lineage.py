from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

from batchroute.config import loading
from batchroute.errors import InputError
from batchroute.reports.export import lineage
from batchroute.reports.export.lineage import LineageSpec
from tests.reports.export.test_notify import QUERY, SECRET, Hook
from tests.support.jobs import JobFolder

EVENT = RunEvent(
    eventType=RunState.START,
    eventTime="2026-11-24T22:00:00+00:00",
    run=Run("0192aeb5-0000-7000-8000-00000000000a"),
    job=Job("default", "nightly"),
)


def send(spec: dict[str, Any], seconds: float = 5.0) -> str | None:
    return lineage.send(LineageSpec.model_validate(spec), EVENT, seconds)


def test_an_address_with_a_path_is_taken_as_it_is() -> None:
    with Hook(201) as hook:
        assert send({"url": hook.url}) is None
        hook.shutdown()
    assert [path for _, path, *_ in hook.asked] == [f"/services/{SECRET}?{QUERY}"]


def test_an_error_that_may_pass_is_tried_once_more(capfd: pytest.CaptureFixture[str]) -> None:
    with Hook(503, 201) as hook:
        assert send({"url": hook.url}) is None
        assert len(hook.asked) == 2
        hook.shutdown()
    with Hook(503) as hook:
        assert send({"url": hook.url}) == f"{hook.host} did not take the event of lineage: HTTP 503"
        assert len(hook.asked) == 2
        hook.shutdown()
    assert capfd.readouterr() == ("", "")


def test_a_refusal_is_not_tried_again() -> None:
    with Hook(401) as hook:
        assert send({"url": hook.url}) == f"{hook.host} did not take the event of lineage: HTTP 401"
        assert len(hook.asked) == 1
        hook.shutdown()


def test_a_server_that_hangs_is_given_up_in_time() -> None:
    with Hook(201, pause=2.0) as hook:
        started = time.monotonic()
        assert send({"url": hook.url}, 0.2) == f"{hook.host} did not take the event of lineage: no answer in time"
        assert time.monotonic() - started < 1.5
        hook.shutdown()


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "events.jsonl"
    assert send({"file": str(path)}) == f"{path} did not take the event of lineage: {os.strerror(20)}"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "lineage: give one of url and file"),
        ({"url": "http://a", "file": "b"}, "lineage: give one of url and file"),
        ({"file": "s3://b/events.jsonl"}, "lineage: file is a path on a local disk"),
        (
            {"url": "ftp://planted"},
            r"lineage.url: it is not a URL with https:// or http:// .*its text is not shown here",
        ),
        ({"file": "a", "nominal_time": "tonight"}, "lineage.nominal_time: .*valid datetime"),
        ({"file": "a", "apikey_env": "KEY"}, "lineage.apikey_env: unknown key; did you mean 'api_key_env'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as raised:
        loading.load(JobFolder(tmp_path, lineage=settings).path)
    assert "planted" not in str(raised.value)
