"""The process ends around every put of a deferral and of tonight's calibration; the next attempt makes it good."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import forking
from tests.crash.places import Place, place

DECIDING = ("shards/", "calibration_", "calibrated/", "confidence/", "deferred/")
BEFORE = ("shards/small/", "shards/large/", "shards/escal")


@pytest.fixture
def where(tmp_path: Path) -> Place:
    """On disk only: other tests try puts on S3."""
    made = place(tmp_path, None)
    del made.folder.settings["router"]
    made.folder.settings["policy"] = {
        "small_share": "30%",
        "decide": "after",
        "calibrate": {"rows": 50, "metric": "exact_match", "reference": "large"},
    }
    made.folder.settings["units"] = {"score": 90, "generate": 60, "merge": 90}
    return made


@pytest.mark.crash
def test_a_crash_at_every_put_of_the_deferral_is_made_good(where: Place) -> None:
    moments, calm = where.record(), where.rows()
    # Fifty of ninety rows are drawn, and keep the large model's answer.
    assert len(calm.filter(route="small")) == 27
    names = [put.split(".work/", 1)[-1].split("/", 1)[-1] for put in forking.lines(where.log, "put")]
    puts = [n for n, name in enumerate(names) if name.startswith(DECIDING) and not name.startswith(BEFORE)]
    written = {names[put] for put in puts}
    assert {
        f"shards/{what}.json" for what in ("drawn", "tonight", "way", "decision", "partition", "deferral")
    } <= written
    # Before a put there is what there was after the one before it.
    for moment in (puts[0], *(put + 1 for put in puts)):
        where.make_good(moments[moment], calm)
