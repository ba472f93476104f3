"""Retry: reopens the units of a committed run that hold failed rows, so that the stages do only those rows again."""

from __future__ import annotations

from batchroute.pipeline import layout
from batchroute.pipeline.context import Snapshot
from batchroute.pipeline.shards.names import SHARDS, Shard, side_of
from batchroute.pipeline.stages.defer import read_deferral
from batchroute.pipeline.stages.partition import read_partition
from batchroute.reports import night
from batchroute.storage.manifest import MANIFEST
from batchroute.storage.receipts import Receipt
from batchroute.storage.units import Span
from batchroute.storage.workdir import Workdir


def reopen_failed(work: Workdir, snapshot: Snapshot) -> int:
    """Reopen the pieces that hold failed answers, and the parts of the output that hold their rows.

    The good answers of a reopened piece are kept. The list of units to reopen is put first, so that after a crash
    `finish_reopening`, which every attempt calls at its start, does the rest.

    Returns:
        The number of failed rows.
    """
    failed: dict[Shard, list[Receipt]] = {shard: _failed(work, snapshot, shard) for shard in SHARDS}
    rows = sum(piece.counts["failed"] for receipts in failed.values() for piece in receipts)
    if rows:
        parts = [part.unit for part in snapshot.parts() if _touched(part, failed, work)]
        pieces = {shard: [piece.unit for piece in receipts] for shard, receipts in failed.items()}
        work.put_json(layout.RETRY, {"merge": parts, "pieces": pieces})
        finish_reopening(work)
    return rows


def finish_reopening(work: Workdir) -> None:
    """Reopen the units that `reopen_failed` has listed; does nothing without a list."""
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
    # These answers are in no output. The audit and tonight's calibration leave failed ones out.
    if shard in ("audited", "calibration_small"):
        return []
    # With escalation, rows that failed on the small model go on, or have gone on, to the large one.
    if shard == "small" and {"on_failure", "escalate"} & snapshot.settings["models"]["small"].keys():
        return []
    # So they do if the policy decides after the small model: without an answer there is no confidence.
    if shard == "small" and read_deferral(work) is not None:
        return []
    return [receipt for receipt in work.stage(shard).receipts().values() if receipt.counts["failed"]]


def _touched(part: Span, failed: dict[Shard, list[Receipt]], work: Workdir) -> bool:
    """Whether the part holds rows of a failed piece, or may hold copies of such rows, which can be in any part."""
    assigned = read_partition(work)
    assert assigned is not None
    deferral = read_deferral(work)
    copies = {
        **{shard: assigned.copies[side_of(shard)] for shard in ("small", "large")},
        "escalated": assigned.copies["small"],
        "deferred": 0 if deferral is None else deferral.copies,
    }
    return any(
        receipts
        and (copies.get(shard, 0) or any(piece.first < part.stop and piece.last >= part.start for piece in receipts))
        for shard, receipts in failed.items()
    )
