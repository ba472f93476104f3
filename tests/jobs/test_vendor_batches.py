"""Jobs whose large model answers in a vendor's batches: no row is lost, and none is paid twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from batchroute.errors import InputError, StoppedError, WaitingError
from tests.support.openai_server import Fault
from tests.support.provider_batches import KEYS, ROWS, again, batch_job, check, once
from tests.support.vendor_server import VendorServer
from tests.support.vendor_server.server import VENDORS


@pytest.fixture(params=VENDORS)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[VendorServer]:
    for name in KEYS.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(KEYS[request.param], "sk-test")
    with VendorServer(request.param) as found:
        yield found


def test_a_shard_goes_into_batches_and_every_row_costs_half(tmp_path: Path, server: VendorServer) -> None:
    server.settings.cached_tokens, server.settings.reasoning_tokens = 1, 2
    prompts = pl.read_parquet(batch_job(tmp_path, server).input)["prompt"].to_list()
    server.faults = {prompts[3]: ["400"], prompts[4]: ["refusal"]}
    job = batch_job(tmp_path, server, batch_requests=20, reasoning="keep")
    assert job.run().exit_code == 0
    frame = check(job, failed=2)
    assert once(server)
    assert len(server.batches()) == 2
    assert frame["error_type"].to_list()[3:5] == ["bad_request", "refused"]
    assert frame["attempts"].to_list() == [1] * ROWS
    good = frame.filter(pl.col("status") == "ok")
    assert good["reasoning"].unique().to_list() == ["let me think"]
    for row in good.iter_rows(named=True):
        assert row["input_tokens"] == len(row["prompt"].split())
        assert row["output_tokens"] == len(row["response"].split()) + 2
        assert float(row["cost"]) == pytest.approx((0.5 * row["input_tokens"] + row["output_tokens"]) * 1e-6)
    assert job.run().was_done


def test_no_wait_submits_and_later_runs_fetch_what_has_ended_and_submit_what_was_cancelled(
    tmp_path: Path, server: VendorServer
) -> None:
    server.settings.manual = True
    job = batch_job(tmp_path, server, batch_requests=16)
    for _ in range(2):
        with pytest.raises(WaitingError):
            job.run(wait=False)
    first, second = server.batches()
    server.finish(first)
    server.cancel(second)
    server.settings.manual = False
    with pytest.raises(StoppedError, match=r"was cancelled at 127.*answers are kept; run again to submit the rest"):
        job.run()
    assert job.run(wait=True).exit_code == 0
    check(job)
    assert len(again(server)) in (7, 14), "those that were not answered before, where the vendor keeps answers"


def test_a_job_is_answered_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    with VendorServer("anthropic") as server:
        job = batch_job(tmp_path, server)
        price = {"input": 1, "output": 2}
        model = {"backend": "anthropic", "model": "large", "endpoint": server.url, "price": price}
        job.settings["models"]["large"] = model
        assert job.run().exit_code == 0
        check(job)
        # And one for the request that goes first.
        assert sum(server.served.values()) == ROWS + 1


def test_rows_without_an_answer_go_into_another_batch_and_only_those(tmp_path: Path, server: VendorServer) -> None:
    server.batch_faults = ["malformed_line", Fault("missing_lines", custom_ids=("row-13", "row-14")), "duplicate_lines"]
    job = batch_job(tmp_path, server, batch_requests=10)
    assert job.run().exit_code == 0
    check(job)
    assert max(server.submitted.values()) == 2
    assert 2 <= len(again(server)) <= 3, "the broken line may be one that is there twice or missing"


def test_rows_whose_errors_pass_and_rows_of_an_expired_batch_are_submitted_again(
    tmp_path: Path, server: VendorServer
) -> None:
    job = batch_job(tmp_path, server)
    prompt = pl.read_parquet(job.input)["prompt"][7]
    server.faults, server.batch_faults = {prompt: ["500"]}, ["expire"]
    assert job.run().exit_code == 0
    check(job)
    done = sum(count == 1 for count in server.submitted.values())
    assert done in (ROWS // 2, ROWS // 2 - 1, 0), (
        "those that were answered before it expired, where the vendor keeps them"
    )
    assert len(server.batches()) <= 3


def test_a_wrong_key_is_one_sentence(tmp_path: Path, server: VendorServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS[server.name], "sk-wrong")
    job = batch_job(tmp_path, server)
    with pytest.raises(
        InputError, match=rf"^127\S+ refuses the key in the environment variable {KEYS[server.name]}: "
    ) as e:
        job.run()
    assert "sk-wrong" not in str(e.value)
    assert not server.submitted


def test_calls_that_go_wrong_submit_no_row_twice(tmp_path: Path, server: VendorServer) -> None:
    faults = ("create_cut", "create_500_after", "create_500", "create_429", "poll_503", "list_500", "download_half")
    server.http_faults = dict.fromkeys(faults, 1)
    job = batch_job(tmp_path, server, batch_requests=10, timeout=0.3)
    assert job.run().exit_code == 0
    assert server.faulted == dict.fromkeys(faults, 1)
    check(job)
    assert once(server)
