"""How rows share batches is found by the first worker of a run, and kept by all others."""

from __future__ import annotations

from pathlib import Path

from batchroute.pipeline import layout, sharing
from batchroute.storage.objects import folder_at
from batchroute.storage.workdir import Workdir


class Loaded:
    def __init__(self, found: str) -> None:
        self.sharing, self.asked = found, list[str]()

    def share(self, name: str) -> None:
        self.asked.append(name)


def test_the_first_worker_decides_for_all(tmp_path: Path) -> None:
    work = Workdir(folder_at(str(tmp_path / "out")), "0" * 16)
    work.put_json(layout.RUN, {})
    first, other, router = Loaded("equal lengths"), Loaded("padded"), Loaded("singly")
    for name, loaded in (("small", first), ("small", other), ("router", router)):
        sharing.keep(work, name, loaded)
    assert [one.asked for one in (first, other, router)] == [["equal lengths"], ["equal lengths"], ["singly"]]
    assert work.read_json(layout.SHARING.format(model="small")) == {"rows": "equal lengths"}
    sharing.keep(work, "large", object())
    assert work.read_json(layout.SHARING.format(model="large")) is None
