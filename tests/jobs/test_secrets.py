"""A key is planted, and everything that a run writes or says is searched for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchroute.errors import InputError, WaitingError
from tests.support.command import run
from tests.support.jobs import JobFolder, table
from tests.support.openai_server import OpenAIServer

KEY = "sk-planted-7c1f0e9ab3"
ENVIRONMENT = "TEAM_KEY"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv(ENVIRONMENT, KEY)
    with OpenAIServer(key=KEY) as found:
        yield found


def folder(tmp_path: Path, server: OpenAIServer, backend: str, **settings: Any) -> JobFolder:
    api = {
        "backend": backend,
        "endpoint": server.url,
        "api_key_env": ENVIRONMENT,
        "retries": 1,
        "price": {"input": 1, "output": 2},
        **({"poll_seconds": 0.05} if backend == "openai_batch" else {}),
        **settings,
    }
    return JobFolder(tmp_path, table(30), models={side: {**api, "model": side} for side in ("small", "large")})


def search(tmp_path: Path, *said: str) -> None:
    """Nothing that was written below `tmp_path`, but the job file itself, or that was said holds the key."""
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "job.yaml"]
    assert len(files) > 5
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
        if path.suffix == ".parquet":
            # Compressed, it would not be seen in the bytes.
            frame = pl.read_parquet(path)
            assert KEY not in "".join(map(str, frame.rows())) + str(frame.schema), path
    for text in said:
        assert KEY not in text


def test_no_file_and_no_log_of_a_run_holds_the_key_even_when_the_server_repeats_it(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = folder(tmp_path, server, "openai")
    job.run()
    server.faults[" 1"] = [{"kind": "400", "message": f"bad request by {KEY}", "repeat": True}]
    server.faults[" 2"] = [{"kind": "500", "message": f"{KEY} broke it", "repeat": True}]
    (tmp_path / "failed").mkdir()
    failed = folder(tmp_path / "failed", server, "openai")
    outcome = failed.run("max_failed=100%")
    assert outcome.report.failures.keys() == {"bad_request", "api_error"}
    assert "***" in "".join(filter(None, failed.answers()["error"]))
    search(tmp_path, job.log, failed.log, repr(outcome))


def test_no_file_and_no_log_of_provider_batches_holds_the_key(tmp_path: Path, server: OpenAIServer) -> None:
    job = folder(tmp_path, server, "openai_batch")
    with pytest.raises(WaitingError) as waiting:
        job.run(wait=False)
    submitted = job.log
    server.batch_faults = [[{"kind": "line_error", "status": 400, "message": f"not for {KEY}"}]]
    job.run("max_failed=100%")
    search(tmp_path, job.log, submitted, str(waiting.value))


@pytest.mark.parametrize("backend", ["openai", "openai_batch"])
def test_the_sentence_of_a_wrong_key_names_the_variable_and_not_the_key(
    tmp_path: Path, server: OpenAIServer, backend: str
) -> None:
    server.settings.key = "sk-another"
    job = folder(tmp_path, server, backend)
    with pytest.raises(InputError, match=f"refuses the key in the environment variable {ENVIRONMENT}") as caught:
        job.run()
    search(tmp_path, str(caught.value), job.log)


def test_nothing_that_the_command_prints_holds_the_key(tmp_path: Path, server: OpenAIServer) -> None:
    server.settings.key = "sk-another"
    job = folder(tmp_path, server, "openai")
    for more in ([], ["--json-logs"]):
        ended = run("run", job.path, *more)
        assert ended.code == 2
        assert "Traceback" not in ended.err
        assert f"environment variable {ENVIRONMENT}" in ended.err
        search(tmp_path, ended.out, ended.err)


def test_extra_fields_of_requests_are_known_by_their_digest_alone(tmp_path: Path, server: OpenAIServer) -> None:
    server.settings.strict = False
    job = folder(tmp_path, server, "openai", extra_body={"tenant_token": KEY})
    job.run()
    search(tmp_path, job.log)
    with pytest.raises(InputError, match=r"models\.large\.extra_body was sha256:"):
        folder(tmp_path, server, "openai", extra_body={"tenant_token": "another"}).run()
