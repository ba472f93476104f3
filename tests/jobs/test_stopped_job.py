"""Runs that stop in the middle of a unit: what was answered is kept and paid for once, and the rest is asked again."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchroute.errors import StoppedError
from tests.support.jobs import JobFolder, table
from tests.support.openai_server import Fault, OpenAIServer

ROWS = 40


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with OpenAIServer() as found:
        yield found


def job_of(folder: Path, server: OpenAIServer, unit: int, **small: Any) -> JobFolder:
    job = JobFolder(folder, table(ROWS), policy={"threshold": 0}, max_failed="100%")
    job.settings["units"]["generate"] = unit
    job.settings["router"]["price"] = {"gpu_hour": 0}
    job.settings["models"]["small"] = {
        "backend": "openai", "model": "small", "endpoint": server.url, "price": {"input": 1, "output": 1},
        "concurrency": 4, "retries": 0, **small,
    }  # fmt: skip
    return job


@pytest.mark.parametrize("status", ["402", "insufficient_quota"])
@pytest.mark.parametrize("unit", [4, ROWS])
def test_no_money_leaves_the_rest_to_be_asked_and_loses_no_answer(
    tmp_path: Path, server: OpenAIServer, status: str, unit: int
) -> None:
    job = job_of(tmp_path, server, unit)
    prompts = job_prompts(job)
    # The longest ones are asked first.
    for prompt in sorted(prompts[25:], key=len)[:12]:
        server.faults[prompt] = Fault(status, repeat=True)
    with pytest.raises(StoppedError, match="has no quota left; raise it and run again: HTTP 4"):
        job.run()
    answered = len(server.served)
    assert answered
    server.clear_faults()
    assert job.run().manifest.counts["ok"] == ROWS
    assert job.answers()["attempts"].to_list() == [1] * ROWS
    # The first request of each run asks the longest prompt, for nobody.
    assert ROWS < server.served.total() <= ROWS + 2


@pytest.mark.parametrize("unit", [4, ROWS])
def test_a_limit_of_money_holds_at_an_endpoint(tmp_path: Path, server: OpenAIServer, unit: int) -> None:
    job = job_of(tmp_path, server, unit, generation={"max_new_tokens": 30})
    job.run()
    whole = job.answers()
    total, longest = whole["cost"].sum(), whole["cost"].max()
    limit = (total / 2).quantize(Decimal("0.000001"))
    server.served.clear()
    with pytest.raises(StoppedError, match=r"^max_cost"):
        job.run(f"max_cost={limit}", fresh=True)
    asked = whole.filter(whole["prompt"].is_in(list(server.served)))
    # The longest prompt was asked first, for nobody.
    assert limit - 2 * longest < asked["cost"].sum() <= limit + 2 * longest
    assert job.run(f"max_cost={total + 1}").report.total_cost == total
    assert ROWS < server.served.total() <= ROWS + 2


def test_what_every_request_would_meet_is_found_by_one_before_a_shard_is_sent(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = job_of(tmp_path, server, ROWS)
    server.faults = {"": Fault("400", message="Unsupported parameter: 'messages'.", repeat=True)}
    with pytest.raises(
        StoppedError, match="refuses the longest prompt and the shortest one, before any other was sent"
    ):
        job.run()
    assert [request.body["max_tokens"] for request in server.requests] == [1, 1]
    server.clear_faults()
    assert job.run().manifest.counts["ok"] == ROWS


def job_prompts(job: JobFolder) -> list[str]:
    return pl.read_parquet(job.input)["prompt"].to_list()
