"""Provider batches that go wrong: nothing is submitted twice that has its answer, and no row is lost."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from batchroute.errors import InputError, StoppedError, WaitingError
from batchroute.generators.batch.states import ENDED, ProviderBatch
from batchroute.generators.openai.batch_api import OpenAIBatches
from batchroute.pipeline.batches.abandon import abandon
from batchroute.storage.objects import folder_at
from batchroute.storage.workdir import Workdir, run_ids
from tests.support.jobs import JobFolder
from tests.support.openai_server import Fault, OpenAIServer
from tests.support.provider_batches import ROWS, again, batch_job, check, once


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with OpenAIServer() as found:
        yield found


@pytest.mark.parametrize(
    ("fault", "repeated"),
    [
        (Fault("wrong_ids", count=3), 0),
        (Fault("duplicate_lines", share=0.5), 0),
        ("malformed_line", 1),
        (Fault("missing_lines", custom_ids=("row-3", "row-4", "row-17")), 3),
        (Fault("line_error", custom_ids=("row-1", "row-2"), status=500), 2),
        (Fault("line_error", custom_ids=("row-1", "row-2"), status=429), 2),
        (Fault("line_error", custom_ids=("row-1", "row-2"), status=None), 2),
        ("no_output_file", ROWS),
        ("expire", ROWS // 2),
        ([Fault("missing_lines", custom_ids=("row-3",)), Fault("wrong_ids"), Fault("duplicate_lines")], 1),
    ],
)
def test_rows_without_a_good_answer_go_into_another_batch_and_only_those(
    tmp_path: Path, server: OpenAIServer, fault: Any, repeated: int
) -> None:
    server.batch_faults = [fault]
    job = batch_job(tmp_path, server)
    assert job.run().exit_code == 0
    frame = check(job)
    assert len(again(server)) == repeated
    assert max(server.submitted.values()) <= 2
    assert frame["attempts"].sum() == ROWS + repeated
    assert len(server.batches()) == 1 + (repeated > 0)


def test_the_rows_own_errors_are_final_and_cost_nothing(tmp_path: Path, server: OpenAIServer) -> None:
    job = batch_job(tmp_path, server)
    prompts = job_prompts(job)
    server.faults = {
        prompts[1]: ["400"], prompts[2]: ["context_overflow"], prompts[3]: ["400_content_filter"],
        prompts[4]: ["refusal"], prompts[5]: ["content_filter"],
    }  # fmt: skip
    job.run()
    frame = check(job, failed=5)
    kinds = ["bad_request", "too_long", "refused", "refused", "refused"]
    assert frame["error_type"].to_list()[1:6] == kinds
    assert once(server)
    assert [cost == 0 for cost in frame["cost"].to_list()[1:6]] == [True, True, True, False, False]


def test_a_batch_cancelled_by_hand_stops_the_run_and_the_next_submits_only_the_rest(
    tmp_path: Path, server: OpenAIServer
) -> None:
    server.batch_faults = ["cancel"]
    job = batch_job(tmp_path, server)
    with pytest.raises(StoppedError, match=r"was cancelled at 127.*; 15 of its 30 answers are kept; run again to sub"):
        job.run()
    assert job.run().exit_code == 0
    check(job)
    assert len(again(server)) == ROWS // 2


def test_a_batch_that_the_provider_refuses_is_the_users_to_mend(tmp_path: Path, server: OpenAIServer) -> None:
    server.settings.models = ("other",)
    job = batch_job(tmp_path, server)
    for _ in range(2):
        with pytest.raises(
            InputError,
            match=r"127.* refuses the batch batch_0.*: model_not_found: The model `large` does not exist\. \(line 1\); "
            "fix it and run again",
        ):
            job.run()
    server.settings.models = ("large",)
    assert job.run().exit_code == 0
    assert check(job)["attempts"].to_list() == [1] * ROWS
    assert once(server)


def test_a_refusal_that_quotes_a_prompt_is_cut_there(tmp_path: Path, server: OpenAIServer) -> None:
    job = batch_job(tmp_path, server)
    quoted = job_prompts(job)[3]
    job.settings["models"]["large"]["model"] = quoted
    with pytest.raises(InputError, match=r"model_not_found \(the rest quotes a prompt and is not shown\)") as found:
        job.run()
    assert quoted not in str(found.value)
    assert quoted not in job.log


def test_batches_that_the_provider_has_no_room_for_wait_for_others(tmp_path: Path, server: OpenAIServer) -> None:
    # Of three, one is taken at a time.
    server.batch_faults = ["ok", "fail_validation", "fail_validation", "ok", "fail_validation", "ok"]
    job = batch_job(tmp_path, server, batch_requests=10)
    assert job.run().exit_code == 0
    check(job)
    assert once(server)
    assert len(server.batches()) == 6


def test_room_that_is_made_at_the_very_moment_of_a_refusal_is_used(tmp_path: Path, server: OpenAIServer) -> None:
    # Both have ended before the first look: one with its answers, one refused.
    server.settings.batch_seconds = 0.0
    server.batch_faults = ["ok", "fail_validation"]
    job = batch_job(tmp_path, server, batch_requests=15)
    assert job.run().exit_code == 0
    check(job)
    assert once(server)


def test_a_batch_that_is_too_large_for_the_provider_at_any_time_stops_the_run(
    tmp_path: Path, server: OpenAIServer
) -> None:
    server.batch_faults = [Fault("fail_validation", repeat=True)]
    job = batch_job(tmp_path, server)
    with pytest.raises(
        StoppedError, match=r"has no room for the batch .* of 30 requests: token_limit_exceeded: Enqu"
    ) as e:
        job.run()
    assert "set models.large.batch_requests to less, or run again when other batches have ended" in str(e.value)
    server.clear_faults()
    assert job.run("models.large.batch_requests=7").exit_code == 0
    check(job)
    assert once(server)
    assert len(server.batches()) == 1 + 5


@pytest.mark.parametrize(
    "fault",
    [
        *("upload_cut", "upload_500", "create_cut", "create_500_after", "create_500", "create_hang", "create_before"),
        *("poll_500", "poll_hang", "download_cut", "download_half", "list_500"),
    ],
)
def test_calls_that_go_wrong_are_repeated_and_no_row_is_submitted_twice(
    tmp_path: Path, server: OpenAIServer, fault: str
) -> None:
    server.http_faults = {fault: 2, "create_500_after": 1} if fault == "list_500" else {fault: 2}
    job = batch_job(tmp_path, server, batch_requests=20, timeout=0.4)
    assert job.run().exit_code == 0
    assert server.faulted[fault] == 2
    check(job)
    assert once(server)
    assert len(server.batches()) == 2


def test_whatever_call_a_run_stops_at_the_next_goes_on(tmp_path: Path, server: OpenAIServer) -> None:
    job = batch_job(tmp_path, server, timeout=0.2)
    for fault in ("upload_401", "create_401", "create_401_after", "list_401", "poll_401", "download_401"):
        server.http_faults = {fault: 1}
        with pytest.raises(InputError, match="refuses the key"):
            job.run()
        assert server.faulted[fault] == 1
    assert job.run().exit_code == 0
    check(job)
    assert once(server)
    assert len(server.batches()) == 1


def test_rows_that_fail_in_every_batch_end_as_failed_and_retry_failed_submits_only_those(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = batch_job(tmp_path, server, retries=2)
    prompts = job_prompts(job)
    server.faults = {prompts[3]: [Fault("500", repeat=True)], prompts[9]: [Fault("429", repeat=True)]}
    job.run()
    frame = check(job, failed=2)
    failed = frame.filter(frame["status"] == "failed")
    assert failed["error_type"].to_list() == ["api_error"] * 2
    assert failed["attempts"].to_list() == [3, 3]
    assert failed["error"].to_list()[0].startswith("HTTP 500: ")
    assert {prompts[3], prompts[9]} == again(server)
    before = server.submitted.copy()
    server.faults = {prompts[9]: [Fault("429", repeat=True)]}
    job.run(retry_failed=True)
    frame = check(job, failed=1)
    assert server.submitted - before == {prompts[3]: 1, prompts[9]: 3}
    assert (frame["attempts"][3], frame["attempts"][9]) == (4, 6)
    server.clear_faults()
    job.run(retry_failed=True)
    frame = check(job)
    assert (frame["attempts"][3], frame["attempts"][9], frame["attempts"].sum()) == (4, 7, ROWS - 2 + 11)
    assert sum(server.submitted.values()) == ROWS - 2 + 11


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("insufficient_quota", StoppedError, "has no quota left; raise it and run again: HTTP 429"),
        ("404", InputError, "has no model 'large'"),
        ("401", InputError, "refuses the key in the environment variable OPENAI_API_KEY"),
    ],
)
def test_what_every_request_of_a_batch_meets_stops_the_run_and_counts_as_no_attempt(
    tmp_path: Path, server: OpenAIServer, fault: str, error: type[Exception], words: str
) -> None:
    job = batch_job(tmp_path, server, retries=0)
    for _ in range(2):
        server.faults = {"": [Fault(fault, repeat=True)]}
        with pytest.raises(error, match=words):
            job.run()
    server.clear_faults()
    assert job.run().exit_code == 0
    assert check(job)["attempts"].to_list() == [1] * ROWS


def test_a_batch_whose_requests_all_fail_alike_stops_the_run_before_others_pay_for_it(
    tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = batch_job(tmp_path, server, rows=120, length_key="max_completion_tokens")
    server.faults = {"": [Fault("400", message="Unsupported parameter: 'max_completion_tokens'.", repeat=True)]}
    # As if the chat API took the field.
    monkeypatch.setattr(OpenAIBatches, "preflight", lambda *arguments: None)
    with pytest.raises(
        StoppedError, match=r"all 120 requests of the batch .* failed alike on the model 'large' at 127"
    ):
        job.run()
    server.clear_faults()
    assert job.run("models.large.length_key=max_tokens").exit_code == 0
    check(job)
    assert len(server.batches()) == 2


def test_what_every_request_would_meet_is_found_by_one_before_a_batch_is_submitted(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = batch_job(tmp_path, server, length_key="max_completion_tokens")
    server.faults = {"": [Fault("400", message="Unsupported parameter: 'max_completion_tokens'.", repeat=True)]}
    with pytest.raises(
        StoppedError,
        match=r"^127.* refuses the longest prompt and the shortest one, before any other was sent: HTTP 400",
    ):
        job.run()
    assert not server.batches()
    server.clear_faults()
    assert job.run("models.large.length_key=max_tokens").exit_code == 0
    check(job)
    assert once(server)


def test_a_longest_prompt_that_is_refused_alone_is_a_note(tmp_path: Path, server: OpenAIServer) -> None:
    job = batch_job(tmp_path, server)
    job_prompts(job)
    longest = "apple " * 60
    frame = pl.read_parquet(job.input)
    frame.with_columns(prompt=pl.when(id="row-7").then(pl.lit(longest)).otherwise("prompt")).write_parquet(job.input)
    server.faults = {longest: [Fault("context_overflow", repeat=True)]}
    job.run()
    assert "large: the longest prompt is too long at 127" in job.log
    assert check(job, failed=1)["error_type"].drop_nulls().to_list() == ["too_long"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("upload_404", "has no Batch API, or the endpoint is not its base URL, which mostly ends in /v1"),
        ("upload_401", "refuses the key in the environment variable OPENAI_API_KEY"),
        ("create_400", "refuses a call of the Batch API: HTTP 400"),
        ("poll_404", "knows no batch batch_0.* any more, or not with this key"),
    ],
)
def test_what_is_wrong_for_every_call_is_the_users_to_mend(
    tmp_path: Path, server: OpenAIServer, fault: str, words: str
) -> None:
    server.http_faults = {fault: 1}
    job = batch_job(tmp_path, server, timeout=0.3)
    with pytest.raises(InputError, match=words) as found:
        job.run()
    assert "sk-test" not in str(found.value)
    assert job.run().exit_code == 0
    check(job)
    assert once(server)


def test_an_endpoint_that_was_changed_between_attempts_is_named(tmp_path: Path, server: OpenAIServer) -> None:
    job = batch_job(tmp_path, server)
    with pytest.raises(WaitingError):
        job.run(wait=False)
    with (
        OpenAIServer() as other,
        pytest.raises(InputError, match=r"a batch of 30 requests was submitted to 127.*; set it back, or start again"),
    ):
        job.run(f"models.large.endpoint={other.url}")
    job.run()
    check(job)
    assert once(server)


def test_fresh_cancels_what_is_running_and_says_so(tmp_path: Path, server: OpenAIServer) -> None:
    server.settings.manual = True
    job = batch_job(tmp_path, server, batch_requests=20)
    with pytest.raises(WaitingError):
        job.run(wait=False)
    running, ended = server.batches()
    server.finish(ended)
    with pytest.raises(WaitingError):
        job.run(wait=False, fresh=True)
    assert f"cancelled the batch {running} of 20 requests at 127" in job.log
    assert f"gave up the batch {ended} of 10 requests at 127" in job.log
    assert server.batch(running)["status"] in ("cancelling", "cancelled")
    assert len(server.batches()) == 4
    server.settings.manual = False
    assert job.run().exit_code == 0
    check(job)


def test_fresh_says_what_it_could_not_cancel(tmp_path: Path, server: OpenAIServer) -> None:
    job = batch_job(tmp_path, server, batch_requests=5)
    with pytest.raises(WaitingError):
        job.run(wait=False)
    output = folder_at(str(job.output))
    (run_id,) = run_ids(output)
    server.http_faults = {"poll_503": 1000}
    begun = time.monotonic()
    lines = abandon(job.load(), Workdir(output, run_id), patience=1.0)
    assert time.monotonic() - begun < 5, "it does not wait for each of them"
    words = r"could not cancel the batch batch_0.* of 5 requests at 127.*; cancel it there by hand: 127.* HTTP 503"
    assert [bool(re.match(words, line)) for line in lines] == [True] * 6
    server.clear_faults()
    assert job.run(fresh=True).exit_code == 0
    check(job)


def test_fresh_with_another_backend_or_endpoint_says_that_it_could_not_cancel(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = batch_job(tmp_path, server)
    with pytest.raises(WaitingError):
        job.run(wait=False)
    with OpenAIServer() as other, pytest.raises(WaitingError):
        job.run(f"models.large.endpoint={other.url}", fresh=True, wait=False)
    assert "by hand: the endpoint is 127.0.0.1" in job.log
    job.settings["models"]["large"] = {"backend": "echo"}
    assert job.run(fresh=True).exit_code == 0
    assert "by hand: the backend is echo now" in job.log


def job_prompts(job: JobFolder) -> list[str]:
    """Prompts of which none is a part of another; they are put into the job's input."""
    frame = pl.read_parquet(job.input).with_columns(prompt=pl.format("<{}> {}", pl.col("id"), pl.col("prompt")))
    frame.write_parquet(job.input)
    return frame["prompt"].to_list()


def later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """Let provider batches be that much older than they are."""
    clock = SimpleNamespace(time=lambda: time.time() + 3600 * hours, sleep=time.sleep)
    for module in ("endings", "submission"):
        monkeypatch.setattr(f"batchroute.pipeline.batches.{module}.time", clock)


def test_a_batch_that_the_provider_never_ends_is_given_up_and_the_rest_submitted_again(
    tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.settings.manual = True
    job = batch_job(tmp_path, server, batch_requests=16)
    with pytest.raises(WaitingError):
        job.run(wait=False)
    first, second = server.batches()
    server.finish(first)
    later(monkeypatch, 31)
    with pytest.raises(StoppedError, match=rf"^127.* has not finished the batch {second} of 14 requests in 31 h") as e:
        job.run()
    url = f"{server.url}/batches/{second}/cancel"
    assert f'cancel it, for example by curl -X POST -H "Authorization: Bearer $OPENAI_API_KEY" {url} and' in str(
        e.value
    )
    assert "set models.large.give_up_after to more" in str(e.value)
    (run_id,) = run_ids(folder_at(str(job.output)))
    assert len(Workdir(folder_at(str(job.output)), run_id).stage("large").receipts()) == 2, "answers are kept"
    server.finish(second, "cancelled")
    server.settings.manual = False
    later(monkeypatch, 32)
    assert job.run().exit_code == 0
    check(job)
    assert len(again(server)) == 7, "half of the batch had been answered"


def test_a_state_that_nobody_knows_is_waited_for_with_a_note(
    tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(self: OpenAIBatches, batch_id: str) -> ProviderBatch:
        batch = real(self, batch_id)
        return batch if batch.status in ENDED or len(seen) > 2 else seen.append(1) or replace(batch, status="on_hold")

    seen: list[int] = []
    real = OpenAIBatches.retrieve
    monkeypatch.setattr(OpenAIBatches, "retrieve", odd)
    server.settings.batch_polls = 3
    job = batch_job(tmp_path, server)
    assert job.run().exit_code == 0
    check(job)
    assert job.log.count("is in a state that batchroute does not know, 'on_hold': waiting until it ends") == 1
