"""The work folder of a run, `<output>.work/<run id>/`: its stages and its JSON files."""

from __future__ import annotations

import json
from typing import Any

from batchroute.storage.folder import Folder
from batchroute.storage.units import Stage

_CLAIM = "claim.json"
WORK_SUFFIX = ".work"


class Workdir:
    """All state of one run apart from its output."""

    def __init__(self, output: Folder, run_id: str) -> None:
        self.output = output
        self.run_id = run_id
        self.folder = work_root(output).folder(run_id)
        self._stages: dict[str, Stage] = {}

    def stage(self, name: str) -> Stage:
        """The stage's units. The data of `merge` are the parts of the output, in `<output>/data/`."""
        if name not in self._stages:
            receipts = self.folder.folder(name)
            data, prefix = (self.output.folder("data"), "part-") if name == "merge" else (None, "")
            self._stages[name] = Stage(self.run_id, receipts, data, prefix)
        return self._stages[name]

    def put_json(self, name: str, value: object) -> bool:
        """Put a JSON file; create-only, as all puts."""
        return self.folder.put_new(name, json.dumps(value, indent=1).encode())

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the work folder; None when it is missing."""
        try:
            value = json.loads(self.folder.read(name))
        except FileNotFoundError:
            return None
        assert isinstance(value, dict)
        return value


def work_root(output: Folder) -> Folder:
    """The folder of all runs of an output. It lies next to the output, so that readers never list work in progress."""
    return output.beside(WORK_SUFFIX)


def run_ids(output: Folder) -> list[str]:
    """The runs of an output that have a work folder."""
    return work_root(output).folders()


def claim(output: Folder, run_id: str) -> str:
    """Claim the output for a run; returns the run that holds the claim. Of runs that begin together one wins."""
    root = work_root(output)
    root.put_new(_CLAIM, json.dumps({"run_id": run_id}).encode())
    return str(json.loads(root.read(_CLAIM))["run_id"])
