"""`batchroute status`: the progress of a run, read from its receipts; the run may be on another machine, or stopped.

It answers at once: it reads JSON alone, and imports neither the stages nor what reads tables.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from batchroute.errors import InputError
from batchroute.fields import SIDES
from batchroute.pipeline import layout
from batchroute.pipeline.audit.plan import read_audit_plan
from batchroute.pipeline.shards.names import READ, SHARDS, Shard, shard_stage
from batchroute.pipeline.tonight.drawn import read_drawn
from batchroute.storage import manifest
from batchroute.storage.objects import folder_at
from batchroute.storage.receipts import Receipt
from batchroute.storage.units import spans
from batchroute.storage.workdir import Workdir, run_ids
from batchroute.words import duration

_FETCHING = "its rows are being fetched, or were when it stopped"


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
    snapshot = work.read_json(layout.RUN)
    if snapshot is None:
        state = "not begun" if work.read_json(layout.SOURCE) is None else _FETCHING
        return f"run {work.run_id}: {state}"
    try:
        stages, rows = _stages(work, snapshot), f"{snapshot['rows']:,}"
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{work.folder} holds no run of a job; `batchroute label` shows its progress itself while it runs"
        ) from error
    state = "committed" if committed else "not committed"
    table = Table(title=f"run {work.run_id}: {rows} rows, {state}", title_justify="left")
    table.add_column("stage")
    for heading in ("units", "rows", "failed", "rows/s", "last unit", "left"):
        table.add_column(heading, justify="right")
    for name, receipts, units in stages:
        table.add_row(name, *_cells(receipts, units))
    return table


def _stages(work: Workdir, snapshot: Mapping[str, Any]) -> list[tuple[str, Sequence[Receipt], int | None]]:
    """Each stage's name, receipts and number of units; None while the number is not known."""
    chunks, parts = (len(spans(snapshot["rows"], snapshot[size])) for size in ("chunk_rows", "part_rows"))
    partitioned, drawn, audit = work.read_json(layout.PARTITION), read_drawn(work), read_audit_plan(work)
    of_drawn = None if drawn is None else -(-len(drawn.positions) // snapshot["unit_rows"])
    units: dict[Shard, int | None] = {
        "calibration_small": of_drawn,
        "calibration_large": of_drawn,
        "deferred": (work.read_json(layout.DEFERRAL) or {}).get("units"),
        "escalated": (work.read_json(layout.ESCALATION) or {}).get("units"),
        "audited": None if audit is None else audit.units,
    }
    for side in SIDES:
        units[side] = None if partitioned is None else partitioned["units"][side]
    # Always the two models; escalated and audited rows once there are any.
    shown = [shard for shard in SHARDS if shard in SIDES or units[shard] is not None]
    written = [receipt for shard in shown for receipt in shard_stage(work, shard).receipts().values()]
    of_stages: list[tuple[str, int | None]] = [(shard, units[shard]) for shard in shown]
    of_stages += [(stage, units[shard]) for shard, stage in READ.items() if work.stage(stage).receipts()]
    if drawn is not None:
        of_stages.append((layout.CALIBRATED, len(drawn.spans())))
    # Without any rows there is one empty part.
    of_stages.append((layout.MERGE, parts or 1))
    if audit is not None:
        of_stages.append((layout.MEASURED, sum(map(len, audit.spans()))))
    return [
        (layout.SCORE, _receipts(work, layout.SCORE), chunks),
        ("partition", written, None if partitioned is None else sum(units[shard] or 0 for shard in shown)),
        *((name, _receipts(work, name), count) for name, count in of_stages),
    ]


def _receipts(work: Workdir, stage: str) -> list[Receipt]:
    return list(work.stage(stage).receipts().values())


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
