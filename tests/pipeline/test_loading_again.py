"""A model that is loaded again while it answers: that time is loading, and not work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from batchroute import generators
from batchroute.generators.base import Response
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.prompt import Prompt
from tests.support.jobs import JobFolder, table


def test_loading_again_counts_as_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Restarted(EchoGenerator):
        load_seconds = 5.0

        def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
            if self.load_seconds == 5.0:
                self.load_seconds += 1000.0
            return super().generate(prompts, seeds)

    folder = JobFolder(tmp_path, table(12), units={"generate": 4}, policy={"threshold": 0})
    monkeypatch.setattr(generators, "load", lambda spec, device, gpus: Restarted(spec))
    folder.run()
    receipts = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("*.work/*/small/*.json"))]
    assert [receipt["load_seconds"] for receipt in receipts] == [1005.0, 0.0, 0.0]
    # Work takes the time that it took, without those 1,000 s, by which nobody waited here.
    assert receipts[0]["seconds"] < -900
    assert all(receipt["seconds"] >= 0 for receipt in receipts[1:])
