"""The process ends before and after every put of a small run; the next attempt makes it good."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import forking
from tests.crash.forking import Crash
from tests.crash.places import Place

STAGES = {
    "score", "calibration_small", "calibration_large", "calibration_read", "calibrated", "small", "read", "escalated",
    "confidences", "deferred", "audited", "merge", "audit",
}  # fmt: skip


@pytest.mark.crash
def test_a_crash_at_every_put_is_made_good(somewhere: Place) -> None:
    """After a put is before the next one: nothing is written in between."""
    moments = somewhere.record()
    calm, puts = somewhere.rows(), len(forking.lines(somewhere.log, "put"))
    assert len(moments) == puts + 1
    assert {Path(put).parent.name for put in forking.lines(somewhere.log, "put")} >= STAGES
    # Which rows are drawn for the calibration is by the run, and in some of them low scores skip the small model.
    assert {"small", "small→large"} <= set(calm["route"]) <= {"small", "small→large", "large"}
    # The stages are the same wherever the output is, so every eighth put will do on a server.
    for moment in moments[:: 8 if "://" in somewhere.base else 1]:
        somewhere.make_good(moment, calm)


@pytest.mark.crash
def test_a_process_that_ends_at_a_put_leaves_what_was_stored_before_it(somewhere: Place) -> None:
    moments = somewhere.record()
    calm = somewhere.rows()
    for put in (len(moments) // 3, len(moments) // 2):
        somewhere.new_output()
        assert somewhere.run(Crash(put, "before")) == forking.CRASHED
        assert forking.stored(somewhere.output, somewhere.filesystem(), {}).keys() == moments[put].keys()
        somewhere.end_as(calm)
