"""Descriptions of batches by every kind of provider."""

from __future__ import annotations

from typing import Any

import pytest

from batchroute.generators.batch.states import ENDED, RUNNING, batch_of


def body(**more: Any) -> dict[str, Any]:
    return {"id": "b1", "status": "in_progress", **more}


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["completed", "SUCCESS", "COMPLETED", "ended", "JOB_STATE_SUCCEEDED", "BATCH_STATE_SUCCEEDED"], "completed"),
        (["expired", "TIMEOUT_EXCEEDED", "JOB_STATE_EXPIRED"], "expired"),
        (["cancelled", "canceled", "CANCELLED", "JOB_STATE_CANCELLED"], "cancelled"),
        (["failed", "FAILED"], "failed"),
        (["in_progress", "IN_PROGRESS", "in-progress"], "in_progress"),
        (["CANCELLATION_REQUESTED", "canceling"], "cancelling"),
        (["QUEUED"], "queued"),
    ],
)
def test_a_providers_state_has_its_meaning(words: list[str], status: str) -> None:
    assert {word: batch_of(body(status=word)).status for word in words} == dict.fromkeys(words, status)
    assert (status in ENDED) != (status in RUNNING)


def test_a_state_that_nobody_knows_stays_as_it_is() -> None:
    assert batch_of(body(status="Thinking about it")).status == "thinking_about_it"


def test_what_is_left_out_or_of_another_type_is_unknown() -> None:
    odd = body(
        input_file_id=7, output_file_id="", error_file_id=None, created_at="yesterday", completed_at=-1,
        request_counts=[3], errors="no room",
    )  # fmt: skip
    batch = batch_of([odd])
    assert (batch.key, batch.output_file_id, batch.error_file_id) == (None, None, None)
    assert (batch.created, batch.ended, batch.answered) == (None, None, 0)
    assert batch.errors == [("", "no room", None)]


def test_reasons_come_in_lists_and_alone() -> None:
    errors = {"object": "list", "data": [{"code": "token_limit_exceeded", "message": "No.", "line": 3}, "and more"]}
    assert batch_of(body(errors=errors)).errors == [("token_limit_exceeded", "No.", 3), ("", "and more", None)]
    assert batch_of(body(errors=[{"message": "No."}])).errors == [("", "No.", None)]
    assert batch_of(body(errors=None)).errors == []


@pytest.mark.parametrize("odd", [None, [], "b1", {}, {"id": ""}, {"id": "b1"}, {"id": 7, "status": "x"}, [{}, {}]])
def test_what_describes_no_batch_is_an_error(odd: Any) -> None:
    with pytest.raises(ValueError, match="describes no batch"):
        batch_of(odd)
