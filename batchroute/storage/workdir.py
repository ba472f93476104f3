"""The work folder of a run: units of work, each proved done by its receipt.

    <output>.work/<run id>/run.json
    <output>.work/<run id>/<stage>/<unit>.parquet + <unit>.json

A unit's data is put first, its receipt second, both create-only. Data without a receipt is what a crash left between
the two: it is whole, since puts are, and carries the receipt's facts in its own metadata, so that the next attempt
adopts it instead of fighting it.
"""

from __future__ import annotations

import json
from typing import Any

from batchroute.storage.folder import Folder
from batchroute.storage.units import Stage

_CLAIM = "claim.json"
WORK_SUFFIX = ".work"


class Workdir:
    """All state of one run that is not yet its output."""

    def __init__(self, output: Folder, run_id: str) -> None:
        self.output = output
        self.run_id = run_id
        self.folder = work_root(output).folder(run_id)
        self._stages: dict[str, Stage] = {}

    def stage(self, name: str) -> Stage:
        """The stage's units; those of `merge` are the parts of the output, put straight into `data/`."""
        if name not in self._stages:
            receipts = self.folder.folder(name)
            data, prefix = (self.output.folder("data"), "part-") if name == "merge" else (None, "")
            self._stages[name] = Stage(self.run_id, receipts, data, prefix)
        return self._stages[name]

    def put_json(self, name: str, value: object) -> bool:
        """Create-only, as all puts."""
        return self.folder.put_new(name, json.dumps(value, indent=1).encode())

    def read_json(self, name: str) -> dict[str, Any] | None:
        """None when it is not there."""
        try:
            value = json.loads(self.folder.read(name))
        except FileNotFoundError:
            return None
        assert isinstance(value, dict)
        return value


def work_root(output: Folder) -> Folder:
    """Beside the output, not in it: readers of the output never list work in progress."""
    return output.beside(WORK_SUFFIX)


def run_ids(output: Folder) -> list[str]:
    """The runs that have a work folder beside this output."""
    return work_root(output).folders()


def claim(output: Folder, run_id: str) -> str:
    """Let one run have this output, of all that begin at the same time; returns which one that is."""
    root = work_root(output)
    root.put_new(_CLAIM, json.dumps({"run_id": run_id}).encode())
    return str(json.loads(root.read(_CLAIM))["run_id"])
