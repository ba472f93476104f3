"""The process ends before and after every put of the escalation; the next attempt makes it good."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import forking
from tests.crash.places import Place, place


@pytest.fixture
def where(tmp_path: Path) -> Place:
    """On disk only: other tests try puts on S3."""
    made = place(tmp_path, None)
    # Of the small model's rows some are cut, and some do not begin with such a word.
    made.folder.settings["models"]["small"] |= {
        "on_failure": "large", "escalate": {"regex": "[a-m].*"}, "generation": {"max_new_tokens": 12},
    }  # fmt: skip
    made.folder.settings["units"]["generate"] = 30
    return made


@pytest.mark.crash
def test_a_crash_at_every_put_of_the_escalation_is_made_good(where: Place) -> None:
    moments, calm = where.record(), where.rows()
    escalated = calm.filter(route="small→large")
    assert escalated["response"].to_list() == escalated["prompt"].to_list()
    names = [put.split(".work/", 1)[-1].split("/", 1)[-1] for put in forking.lines(where.log, "put")]
    puts = [n for n, name in enumerate(names) if name.startswith(("shards/escal", "escalated/"))]
    # Two pieces, partitioned and answered, each with its receipt; in between the file of the escalation.
    assert len(puts) == 9, names
    # Before a put there is what there was after the one before it.
    for moment in (puts[0], *(put + 1 for put in puts)):
        where.make_good(moments[moment], calm)
