"""What a unit costs must not grow with the number of units: no folder is listed, and no receipt read, for each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from batchroute.storage.local import LocalFolder
from tests.support.jobs import JobFolder, table


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often folders were asked, but for the units' data."""
    counted: Counter[str] = Counter()

    def count(name: str) -> None:
        asked = getattr(LocalFolder, name)

        def counting(self: LocalFolder, *arguments: Any) -> Any:
            is_data = name == "exists" and str(*arguments).removeprefix("part-").removesuffix(".parquet").isdecimal()
            counted[name] += not is_data
            return asked(self, *arguments)

        monkeypatch.setattr(LocalFolder, name, counting)

    for name in ("names", "exists", "read"):
        count(name)
    return counted


def test_more_units_ask_no_folder_for_more(tmp_path: Path, calls: Counter[str]) -> None:
    job, asked = JobFolder(tmp_path, table(36)), []
    for rows in (12, 2):
        calls.clear()
        # With a limit, each unit is told what is left.
        units = {"score": rows, "generate": rows, "merge": rows}
        job.settings |= {"units": units, "output": {"uri": str(tmp_path / f"out-{rows}")}, "max_cost": 1}
        job.run()
        asked.append(dict(calls))
    assert asked[0] == asked[1]
