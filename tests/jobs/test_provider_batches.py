"""Jobs whose models answer in provider batches: order, costs, limits, processes, and the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchroute import generators
from batchroute.errors import StoppedError, WaitingError
from batchroute.generators.base import Response
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.generators.openai import batch_api as openai_batch
from tests.crash import forking, killing
from tests.support.command import run
from tests.support.jobs import table
from tests.support.openai_server import Fault, OpenAIServer
from tests.support.provider_batches import ROWS, batch_job, batch_model, check, once
from tests.support.waiting import wait_for


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with OpenAIServer() as found:
        yield found


def test_one_batch_answers_a_whole_shard_in_the_order_of_the_input(tmp_path: Path, server: OpenAIServer) -> None:
    job = batch_job(tmp_path, server)
    assert job.run().exit_code == 0
    frame = check(job)
    assert frame["attempts"].to_list() == [1] * ROWS
    assert once(server)
    assert len(server.batches()) == 1
    assert server.batch(server.batches()[0])["metadata"]["batchroute_batch"] == "large/00000"
    assert server.submitted_ids.keys() == {f"row-{number}" for number in range(ROWS)}
    assert job.run().was_done
    assert len(server.batches()) == 1


def test_a_shard_goes_into_as_many_batches_as_the_provider_takes(tmp_path: Path, server: OpenAIServer) -> None:
    job = batch_job(tmp_path, server, batch_requests=7)
    job.run()
    assert [server.batch(name)["request_counts"]["total"] for name in server.batches()] == [7, 7, 7, 7, 2]
    check(job)


def test_pieces_are_committed_as_their_batches_end(tmp_path: Path, server: OpenAIServer) -> None:
    server.settings.manual = True
    job = batch_job(tmp_path, server, batch_requests=8)
    with pytest.raises(WaitingError):
        job.run(wait=False)
    server.finish(server.batches()[0])
    with pytest.raises(WaitingError):
        job.run(wait=False)
    assert "large: 1/4 units · 8 rows" in job.log
    server.settings.manual = False
    job.run()
    check(job)
    assert once(server)


def test_copies_of_a_prompt_are_submitted_once(tmp_path: Path, server: OpenAIServer) -> None:
    job = batch_job(tmp_path, server)
    pl.concat([table(10), table(10).with_columns(id=pl.col("id") + "-again")]).write_parquet(job.input)
    job.run()
    check(job)
    assert once(server, 10)


def test_a_row_that_the_cache_answers_is_not_submitted(tmp_path: Path, server: OpenAIServer) -> None:
    job = batch_job(tmp_path, server)
    job.settings["cache"] = {"uri": str(tmp_path / "cache")}
    table(20).write_parquet(job.input)
    in_batches = job.settings["models"]["large"]
    # The first night is answered row by row.
    job.settings["models"]["large"] = {key: in_batches[key] for key in ("model", "endpoint")} | {"backend": "openai"}
    job.run()
    job.settings["models"]["large"] = in_batches
    job.output = tmp_path / "again"
    job.settings["output"] = {"uri": str(job.output)}
    table(ROWS).write_parquet(job.input)
    job.run()
    assert check(job)["from_cache"].to_list() == [True] * 20 + [False] * (ROWS - 20)
    assert once(server, ROWS - 20)


def test_sampling_sends_each_row_a_seed_of_its_own(tmp_path: Path, server: OpenAIServer) -> None:
    seen: list[Any] = []
    server.settings.answer = lambda body: seen.append(body["seed"])
    job = batch_job(tmp_path, server, generation={"temperature": 1.0, "seed": 3})
    job.run()
    # And one for the request that goes before the batch.
    assert len(set(seen)) == ROWS + 1
    check(job)


class TestCommandLine:
    def test_no_wait_ends_with_4_and_a_later_run_commits(self, tmp_path: Path, server: OpenAIServer) -> None:
        server.settings.manual = True
        job = batch_job(tmp_path, server, share="50%", batch_requests=10)
        first = run("run", job.path, "--no-wait")
        assert first.code == 4, first.err
        told = [line for line in first.err.splitlines() if line.startswith("waiting: ")]
        assert told == ["waiting: the provider's batches have not ended yet: run again later to go on"]
        assert "Traceback" not in first.err
        submitted = server.submitted.copy()
        assert len(submitted) == 15
        status = run("status", str(job.output))
        assert status.code == 0
        assert "not committed" in status.out
        again = run("run", job.path, "--no-wait", "--json-logs")
        assert again.code == 4
        event = json.loads(again.err.splitlines()[-1])
        assert (event["event"], event["exit_code"]) == ("waiting", 4)
        assert server.submitted == submitted
        for name in server.batches():
            server.finish(name)
        last = run("run", job.path, "--no-wait")
        assert last.code == 0, last.err
        check(job)
        assert server.submitted == submitted
        assert "nothing to do" in run("run", job.path, "--no-wait").err

    def test_sigterm_while_waiting_ends_with_143_and_a_later_run_picks_up(
        self, tmp_path: Path, server: OpenAIServer
    ) -> None:
        server.settings.manual = True
        job = batch_job(tmp_path, server)
        attempt = killing.start(job.path, [])
        asked = ("GET", "/v1/batches/")
        wait_for(
            lambda: attempt.code is not None or any((seen.method, seen.path[:12]) == asked for seen in server.requests)
        )
        attempt.terminate()
        ended = attempt.end()
        assert ended.code == 143
        assert "run the same command again" in ended.err
        server.settings.manual = False
        assert job.run().exit_code == 0
        check(job)
        assert once(server)


class TestBothModels:
    def test_the_large_batch_is_submitted_before_the_small_model_is_asked(
        self, tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches: list[int] = []

        class Watching(EchoGenerator):
            def generate(self, prompts: Any, seeds: Any) -> list[Response]:
                batches.append(len(server.batches()))
                return super().generate(prompts, seeds)

        monkeypatch.setattr(generators, "load", lambda spec, device, gpus: Watching(spec))
        job = batch_job(tmp_path, server, share="50%")
        job.run()
        assert batches
        assert set(batches) == {1}
        frame = check(job)
        assert frame["route"].value_counts().sort("route").rows() == [("large", 15), ("small", 15)]

    def test_both_are_submitted_before_either_is_waited_for(self, tmp_path: Path, server: OpenAIServer) -> None:
        job = batch_job(tmp_path, server, share="50%")
        job.settings["models"]["small"] = batch_model(server, "small")
        job.run()
        check(job)
        assert once(server)
        calls = [seen.method for seen in server.requests if seen.path.startswith("/v1/batches")]
        assert calls[:3] == ["POST", "POST", "GET"]

    @pytest.mark.parametrize("wait", [True, False])
    def test_what_the_small_batch_could_not_answer_goes_into_one_of_the_large_model(
        self, tmp_path: Path, server: OpenAIServer, wait: bool
    ) -> None:
        server.settings.answer = lambda body: "" if body["model"] == "small" and "apple" in str(body) else None
        job = batch_job(tmp_path, server, share="50%")
        job.settings["models"]["small"] = batch_model(server, "small", on_failure="large")
        for _ in range(20):
            try:
                job.run(wait=wait)
                break
            except WaitingError:
                assert not wait
        frame = check(job)
        escalated = frame.filter(pl.col("route") == "small→large")
        assert 0 < escalated.height < 15
        assert frame["status"].unique().to_list() == ["ok"]
        assert {server.submitted_ids[f"row-{n}"] for n in range(ROWS)} == {1, 2}
        assert sum(server.submitted.values()) == ROWS + escalated.height
        assert len(server.batches()) == 3

    def test_escalated_rows_are_submitted_before_the_large_models_own_are_waited_for(
        self, tmp_path: Path, server: OpenAIServer
    ) -> None:
        job = batch_job(tmp_path, server, share="50%")
        job.settings["models"]["small"] |= {"on_failure": "large", "generation": {"max_new_tokens": 1}}
        job.run()
        check(job)
        calls = [seen.method for seen in server.requests if seen.path.startswith("/v1/batches")]
        assert calls[:3] == ["POST", "POST", "GET"]
        assert server.batch(server.batches()[1])["metadata"]["batchroute_batch"] == "escalated/00000"


class TestCosts:
    def test_each_row_costs_its_tokens_at_the_discount_and_they_add_up(
        self, tmp_path: Path, server: OpenAIServer
    ) -> None:
        server.settings.cached_tokens = 2
        job = batch_job(
            tmp_path, server, price={"input": 1, "cached_input": "0.2", "output": 2, "batch_discount": "50%"}
        )
        outcome = job.run()
        frame = check(job)
        for row in frame.iter_rows(named=True):
            cached = min(2, row["input_tokens"])
            picos = 500_000 * (row["input_tokens"] - cached) + 100_000 * cached + 1_000_000 * row["output_tokens"]
            assert row["cost"] == Decimal(picos).scaleb(-12)
            assert row["input_tokens"] == len(row["prompt"].split())
        assert outcome.report.total_cost == frame["cost"].sum()
        assert outcome.report.models["large"].cached_tokens == 2 * ROWS

    def test_tokens_are_counted_here_where_the_provider_does_not(self, tmp_path: Path, server: OpenAIServer) -> None:
        server.faults = {"": [Fault("no_usage", repeat=True)]}
        job = batch_job(tmp_path, server, batch_requests=11)
        outcome = job.run()
        frame = check(job)
        assert outcome.report.models["large"].estimated == ROWS
        for row in frame.iter_rows(named=True):
            assert row["input_tokens"] >= len(row["prompt"].split())
            assert row["output_tokens"] > 0

    def test_answers_that_do_not_fit_the_format_are_paid_and_fail(self, tmp_path: Path, server: OpenAIServer) -> None:
        server.settings.answer = lambda body: "{}" if "apple" in str(body["messages"]) else None
        job = batch_job(tmp_path, server, response_format={"type": "json_object"})
        job.run()
        frame = job.answers()
        invalid = frame.filter(~pl.col("prompt").str.contains("apple"))
        assert invalid["error_type"].unique().to_list() == ["invalid_response"]
        assert invalid["cost"].min() > 0  # type: ignore[operator]
        assert frame.filter(pl.col("prompt").str.contains("apple"))["status"].unique().to_list() == ["ok"]
        assert once(server)

    def test_a_batch_that_may_cost_more_than_is_left_is_not_submitted(
        self, tmp_path: Path, server: OpenAIServer
    ) -> None:
        job = batch_job(tmp_path, server, generation={"max_new_tokens": 100})
        job.settings["max_cost"] = "0.0005"
        with pytest.raises(StoppedError, match=r"max_cost \$0\.0005.*raise max_cost and run again"):
            job.run()
        assert not server.batches()
        ended = run("run", job.path)
        assert ended.code == 3
        assert not server.batches()
        job.settings["max_cost"] = "1"
        assert job.run().exit_code == 0
        check(job)
        assert once(server)

    def test_what_a_limit_leaves_room_for_goes_first_and_the_rest_when_that_has_shown_what_it_takes(
        self, tmp_path: Path, server: OpenAIServer
    ) -> None:
        # A piece of 8 rows may take 8 × 100 output tokens at $1 per million, and takes a tenth of it.
        job = batch_job(tmp_path, server, generation={"max_new_tokens": 100})
        job.settings["max_cost"] = "0.0022"
        assert job.run().exit_code == 0
        check(job)
        assert once(server)
        assert [server.batch(name)["request_counts"]["total"] for name in server.batches()] == [16, 14]

    def test_answers_are_fetched_though_the_limit_leaves_no_room_for_more(
        self, tmp_path: Path, server: OpenAIServer
    ) -> None:
        job = batch_job(tmp_path, server, rows=300, generation={"max_new_tokens": 100})
        job.settings["max_cost"] = "0.002"
        job.settings["units"]["generate"] = 16
        with pytest.raises(StoppedError, match="raise max_cost"):
            job.run()
        submitted = sum(server.submitted.values())
        assert 0 < submitted < 300
        assert sum(server.completed.values()) == submitted
        with pytest.raises(StoppedError, match="raise max_cost"):
            job.run()
        assert sum(server.submitted.values()) == submitted
        job.settings["max_cost"] = "1"
        job.run()
        check(job)
        assert once(server, 300)


class TestProcesses:
    @pytest.mark.parametrize("attempt", range(5))
    def test_two_at_once_submit_every_row_once(self, tmp_path: Path, server: OpenAIServer, attempt: int) -> None:
        job = batch_job(tmp_path, server, share="50%", batch_requests=4, timeout=10)
        job.settings["models"]["small"] = batch_model(server, "small", batch_requests=5, timeout=10)
        if attempt == 0:
            server.faults = {"": [Fault("no_usage", repeat=True)]}
        if attempt == 1:
            server.batch_faults = ["expire", "missing_lines", "fail_validation"]
        log, environment = tmp_path / "log", {"OPENAI_API_KEY": "sk-test"}
        processes = [forking.start(job.path, log, environment) for _ in range(2)]
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0], forking.lines(log, "error")
        check(job)
        if attempt != 1:
            assert once(server)
        assert len(server.submitted) == ROWS
        assert not [name for name in server.batches() if server.batch(name)["status"] == "cancelled"]

    def test_what_another_is_about_to_submit_is_left_to_it_for_a_while(
        self, tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = batch_job(tmp_path, server, timeout=1)

        def die(*anything: Any, **named: Any) -> None:
            raise KeyboardInterrupt

        create = openai_batch.OpenAIBatches.create
        monkeypatch.setattr(openai_batch.OpenAIBatches, "create", die)
        with pytest.raises(KeyboardInterrupt):
            job.run()
        monkeypatch.setattr(openai_batch.OpenAIBatches, "create", create)
        assert not server.batches()
        begun = time.monotonic()
        job.run()
        assert time.monotonic() - begun > 0.5
        assert "large: another attempt was about to submit 30 requests and may still be at it" in job.log
        check(job)
        assert once(server)
