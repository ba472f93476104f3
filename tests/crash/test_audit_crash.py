"""The process ends between dealing out an audit and measuring it; the next attempt finds what a calm one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.crash import forking
from tests.crash.forking import CRASHED, Crash
from tests.crash.places import Place, place

POINTS = (
    "shards/audit.json",
    "shards/audited/00000.parquet",
    "shards/audited/00001.json",
    "audited/00000.json",
    "audit/00000.parquet",
    "audit/00001.json",
)


@pytest.fixture
def where(tmp_path: Path) -> Place:
    """On disk only: other tests try puts on S3."""
    made = place(tmp_path, None)
    # The small model is right about short prompts.
    made.folder.settings["models"]["small"]["generation"] = {"max_new_tokens": 8}
    made.folder.settings["report"] = {
        "audit": {"share": "80%", "metric": {"name": "exact_match"}, "reference": "prompt"}
    }
    return made


def audited(where: Place) -> tuple[dict[str, Any], pl.DataFrame]:
    report = Path(where.output) / "report"
    return json.loads((report / "report.json").read_text())["audit"], pl.read_parquet(report / "audit.parquet")


@pytest.mark.crash
def test_a_crash_between_dealing_and_measuring_is_made_good(where: Place) -> None:
    where.new_output()
    assert where.run() == 0
    calm, (figures, rows) = where.rows(), audited(where)
    assert figures["measured"] == 43
    assert figures["drop"] > 0
    names = [put.split(".work/", 1)[-1].split("/", 1)[-1] for put in forking.lines(where.log, "put")]
    for point in POINTS:
        where.new_output()
        crash = Crash(names.index(point), "after")
        assert where.run(crash) == CRASHED, point
        before = where.receipts()
        done = len(forking.lines(where.log, "unit"))
        assert where.run() == 0, (point, forking.lines(where.log, "error"))
        where.check(calm)
        figures_again, again = audited(where)
        assert figures_again == figures
        assert again.equals(rows)
        after = where.receipts()
        assert {name: after[name] for name in before} == before
        assert set(forking.lines(where.log, "unit")[done:]) & set(before) == set(), point
