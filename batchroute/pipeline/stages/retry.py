"""Retry: takes back what a run committed of failed rows, so that the next stages do only those again."""

from __future__ import annotations

from batchroute.pipeline import layout
from batchroute.pipeline.context import Snapshot
from batchroute.pipeline.shards.writer import SHARDS, Shard, side_of
from batchroute.pipeline.stages.partition import read_partition
from batchroute.reports import night
from batchroute.storage.manifest import MANIFEST
from batchroute.storage.receipts import Receipt
from batchroute.storage.units import Span
from batchroute.storage.workdir import Workdir


def reopen_failed(work: Workdir, snapshot: Snapshot) -> int:
    """Reopen the pieces that hold failed answers, and the parts of the output over them; returns the failed rows.

    The good answers of a reopened piece are kept and not generated again. What is to be reopened is written down first:
    a crash in the middle is made good by `finish_reopening`, which every attempt of the run begins with.
    """
    failed: dict[Shard, list[Receipt]] = {shard: _failed(work, snapshot, shard) for shard in SHARDS}
    rows = sum(piece.counts["failed"] for found in failed.values() for piece in found)
    if rows:
        parts = [part.unit for part in snapshot.parts() if _touched(part, failed, work)]
        pieces = {shard: [piece.unit for piece in found] for shard, found in failed.items()}
        work.put_json(layout.RETRY, {"merge": parts, "pieces": pieces})
        finish_reopening(work)
    return rows


def finish_reopening(work: Workdir) -> None:
    """Do what a written-down intent says; nothing when there is none."""
    intent = work.read_json(layout.RETRY)
    if intent is None:
        return
    work.output.remove(MANIFEST)
    for name in night.FILES:
        work.output.folder("report").remove(name)
    for shard, units in intent["pieces"].items():
        stage = work.stage(shard)
        for unit in units:
            if unit in stage.receipts():
                stage.reopen(unit, keep=True)
    for unit in intent["merge"]:
        work.stage(layout.MERGE).reopen(unit)
    work.folder.remove(layout.RETRY)


def _failed(work: Workdir, snapshot: Snapshot, shard: Shard) -> list[Receipt]:
    # An audited row is in no output, and the audit does without it.
    if shard == "audited":
        return []
    # Where there is escalation, what failed on the small model goes on to the large one, or has gone already.
    if shard == "small" and {"on_failure", "escalate"} & snapshot.settings["models"]["small"].keys():
        return []
    return [receipt for receipt in work.stage(shard).receipts().values() if receipt.counts["failed"]]


def _touched(part: Span, failed: dict[Shard, list[Receipt]], work: Workdir) -> bool:
    """Whether the part holds rows of a failed piece, or may hold copies of them, which can be anywhere."""
    assigned = read_partition(work)
    assert assigned is not None
    return any(
        found
        and (
            assigned.copies["small" if shard == "escalated" else side_of(shard)]
            or any(piece.first < part.stop and piece.last >= part.start for piece in found)
        )
        for shard, found in failed.items()
    )
