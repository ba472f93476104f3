"""`batchroute status`: the progress of a run, read from its receipts; the run may be on another machine, or stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from batchroute.errors import InputError
from batchroute.fields import SIDES
from batchroute.pipeline import layout
from batchroute.pipeline.audit.plan import AuditPlan, read_audit_plan
from batchroute.pipeline.context import Snapshot
from batchroute.pipeline.shards.writer import SHARDS, Shard, shard_stage
from batchroute.pipeline.stages.defer import read_deferral
from batchroute.pipeline.stages.escalate import read_escalation
from batchroute.pipeline.stages.fetch import SOURCE
from batchroute.pipeline.stages.partition import read_partition
from batchroute.pipeline.tonight.draw import Drawn, read_drawn
from batchroute.storage import manifest
from batchroute.storage.objects import folder_at
from batchroute.storage.receipts import Receipt
from batchroute.storage.workdir import Workdir, run_ids
from batchroute.words import duration


def show(uri: str, storage_options: Mapping[str, Any] | None = None) -> None:
    """Print the progress of every run of an output.

    Raises:
        InputError: no run has begun there.
    """
    output = folder_at(uri, storage_options)
    if output.is_file():
        raise InputError(f"{output} is a file; give the output.uri of a job")
    committed = manifest.read(output)
    runs = run_ids(output)
    if committed is None and not runs:
        raise InputError(f"{output}: no run has begun here")
    console = Console()
    for run_id in runs:
        console.print(_table(Workdir(output, run_id), committed is not None and committed.run_id == run_id))
    if committed is not None:
        counts = ", ".join(f"{count:,} {name}" for name, count in committed.counts.items() if count)
        console.print(f"committed at {committed.committed_at} by run {committed.run_id}: {counts}")


def _table(work: Workdir, committed: bool) -> Table | str:
    tree = work.read_json(layout.RUN)
    if tree is None:
        state = "not begun" if work.read_json(SOURCE) is None else "its rows are being fetched, or were when it stopped"
        return f"run {work.run_id}: {state}"
    try:
        snapshot = Snapshot.model_validate(tree)
    except ValidationError as error:
        raise InputError(
            f"{work.folder} holds no run of a job; `batchroute label` shows its progress itself while it runs"
        ) from error
    state = "committed" if committed else "not committed"
    table = Table(title=f"run {work.run_id}: {snapshot.rows:,} rows, {state}", title_justify="left")
    table.add_column("stage")
    for heading in ("units", "rows", "failed", "rows/s", "last unit", "left"):
        table.add_column(heading, justify="right")
    for name, receipts, units in _stages(work, snapshot):
        table.add_row(name, *_cells(receipts, units))
    return table


def _stages(work: Workdir, snapshot: Snapshot) -> list[tuple[str, Sequence[Receipt], int | None]]:
    """Each stage's name, receipts and number of units; None while the number is not known."""
    partitioned, escalation, audited = read_partition(work), read_escalation(work), read_audit_plan(work)
    deferral, drawn = read_deferral(work), read_drawn(work)
    of_drawn = None if drawn is None else -(-len(drawn.positions) // snapshot.unit_rows)
    units: dict[Shard, int | None] = {
        "calibration_small": of_drawn,
        "calibration_large": of_drawn,
        "deferred": None if deferral is None else deferral.units,
        "escalated": None if escalation is None else escalation.units,
        "audited": None if audited is None else audited.units,
    }
    for side in SIDES:
        units[side] = None if partitioned is None else partitioned.units[side]
    # Always the two models; escalated and audited rows once there are any.
    shown = [shard for shard in SHARDS if shard in SIDES or units[shard] is not None]
    shards = [receipt for shard in shown for receipt in shard_stage(work, shard).receipts().values()]
    return [
        (layout.SCORE, list(work.stage(layout.SCORE).receipts().values()), len(snapshot.chunks())),
        ("partition", shards, None if partitioned is None else sum(units[shard] or 0 for shard in shown)),
        *((shard, list(work.stage(shard).receipts().values()), units[shard]) for shard in shown),
        *_calibrated(work, drawn),
        (layout.MERGE, list(work.stage(layout.MERGE).receipts().values()), len(snapshot.parts())),
        *_audit(work, audited),
    ]


def _calibrated(work: Workdir, drawn: Drawn | None) -> list[tuple[str, Sequence[Receipt], int | None]]:
    if drawn is None:
        return []
    return [(layout.CALIBRATED, list(work.stage(layout.CALIBRATED).receipts().values()), len(drawn.spans()))]


def _audit(work: Workdir, plan: AuditPlan | None) -> list[tuple[str, Sequence[Receipt], int | None]]:
    if plan is None:
        return []
    units = sum(map(len, plan.spans()))
    return [(layout.MEASURED, list(work.stage(layout.MEASURED).receipts().values()), units)]


def _cells(receipts: Sequence[Receipt], units: int | None) -> list[str]:
    rows = sum(receipt.rows for receipt in receipts)
    seconds = sum(receipt.seconds for receipt in receipts)
    failed = sum(receipt.counts.get("failed", 0) for receipt in receipts)
    left = "" if units is None or not receipts else duration(seconds / len(receipts) * (units - len(receipts)))
    last = max((receipt.finished for receipt in receipts), default=None)
    return [
        f"{len(receipts):,}/{'?' if units is None else f'{units:,}'}",
        f"{rows:,}",
        f"{failed:,}",
        f"{rows / seconds:,.1f}" if seconds else "",
        "" if last is None else f"{duration(max(0.0, time.time() - last))} ago",
        "done" if units == len(receipts) else left,
    ]
