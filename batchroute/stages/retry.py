"""Retry: takes back what a run committed of failed rows, so that the next stages do only those again."""

from __future__ import annotations

from batchroute.costs import report
from batchroute.spec import SIDES
from batchroute.stages import merge
from batchroute.stages.context import Snapshot
from batchroute.storage.manifest import MANIFEST
from batchroute.storage.workdir import Receipt, Workdir

INTENT = "retry.json"


def reopen_failed(work: Workdir, snapshot: Snapshot) -> int:
    """Reopen the pieces that hold failed answers, and the parts of the output over them; returns the failed rows.

    The good answers of a reopened piece are kept and not generated again. What is to be reopened is written down first:
    a crash in the middle is made good by `finish_reopening`, which every attempt of the run begins with.
    """
    failed: dict[str, list[Receipt]] = {side: _failed(work, side) for side in SIDES}
    rows = sum(piece.counts["failed"] for pieces in failed.values() for piece in pieces)
    if rows:
        spans = [(piece.first, piece.last) for pieces in failed.values() for piece in pieces]
        parts = [
            part.unit for part in snapshot.parts() if any(f < part.stop and last >= part.start for f, last in spans)
        ]
        work.put_json(INTENT, {"merge": parts, **{side: [p.unit for p in pieces] for side, pieces in failed.items()}})
        finish_reopening(work)
    return rows


def finish_reopening(work: Workdir) -> None:
    """Do what a written-down intent says; nothing when there is none."""
    intent = work.read_json(INTENT)
    if intent is None:
        return
    work.output.remove(MANIFEST)
    for name in report.FILES:
        work.output.folder("report").remove(name)
    for side in SIDES:
        stage = work.stage(side)
        for unit in intent[side]:  # type: ignore[attr-defined]
            if unit in stage.receipts():
                stage.reopen(unit, keep=True)
    for unit in intent["merge"]:  # type: ignore[attr-defined]
        work.stage(merge.STAGE).reopen(unit)
    work.folder.remove(INTENT)


def _failed(work: Workdir, side: str) -> list[Receipt]:
    return [receipt for receipt in work.stage(side).receipts().values() if receipt.counts["failed"]]
