"""The commit: the manifest, which makes an output count."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import uuid
from dataclasses import dataclass
from typing import Any

from batchroute.config.job import Job
from batchroute.costs.report import CostReport
from batchroute.errors import EXIT_FAILED_ROWS, EXIT_OK, BatchrouteError, InputError
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context
from batchroute.pipeline.precision import precisions
from batchroute.pipeline.stages.defer import decided_of
from batchroute.pipeline.stages.night import quality
from batchroute.pipeline.stages.report import read_cost
from batchroute.reports import night as nights
from batchroute.reports.night import NightReport
from batchroute.storage import manifest
from batchroute.storage.folder import Folder
from batchroute.storage.manifest import DataFile, Manifest
from batchroute.tables.targets import target_of


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the output is committed either way.

    Attributes:
        night: None of an output that an earlier version committed.
    """

    output: str
    manifest: Manifest
    report: CostReport
    night: NightReport | None
    was_done: bool
    exit_code: int


def commit(context: Context, night: NightReport) -> Manifest:
    report = night.cost
    frozen, by = context.snapshot, f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    parts = context.work.stage(layout.MERGE).receipts().values()
    merged = sum(part.rows for part in parts)
    if merged != frozen.rows:
        # The last check before anything counts: every row of the input is in the output, once.
        raise InputError(
            f"run {frozen.run_id}: the parts in {context.work.output}/data hold {merged:,} rows, but the input has "
            f"{frozen.rows:,}; nothing was committed: report this, and start again with --fresh"
        )
    committed = Manifest(
        name=context.job.name,
        run_id=frozen.run_id,
        fingerprint=frozen.fingerprint,
        settings=frozen.settings,
        source=frozen.source,
        input_files=[file.record() for file in frozen.files],
        committed_at=_now(context).isoformat(timespec="milliseconds"),
        committed_by=by,
        rows=frozen.rows,
        counts=report.rows,
        cutoff=_cutoff(context),
        files=[DataFile(path=f"data/{p.file}", rows=p.rows, bytes=p.bytes, sha256=p.sha256) for p in parts],
        report=[f"report/{name}" for name in night.files],
        cost=report.model_dump(mode="json", include={"total_cost", "baseline", "savings", "missing_prices"}),
        quality=quality(night),
        versions=manifest.versions(),
        precision={str(side): dtype for side, dtype in precisions(context.work).items()},
    )
    committed.put(context.work.output)
    winner = manifest.read(context.work.output)
    assert winner is not None
    if winner.committed_by != by:
        context.engine.progress.note(
            "lost", f"this run was committed by {winner.committed_by} first, with the same rows; nothing is left to do"
        )
    return winner


def _now(context: Context) -> datetime.datetime:
    """The time, but after that of every commit whose rows are in the job's table, which takes those of the latest."""
    job, frozen = context.job, context.snapshot
    target, loaded = target_of(job.output.table, job.input.id), 0
    if target is not None:
        # A table that cannot be asked now will not be loaded now either.
        with contextlib.suppress(BatchrouteError):
            loaded = max(target.loads(manifest.load_id(frozen.run_id, frozen.source)), default=0)
    # Two milliseconds, since a serial is a rounded time.
    return max(_clock(), datetime.datetime.fromtimestamp(loaded / 1000 + 0.002, datetime.UTC))


def _clock() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _cutoff(context: Context) -> dict[str, Any]:
    """The cut-off of all rows, or by group; empty for a budget, which has none."""
    decided = decided_of(context.work)
    cutoffs = {one.group: {} if one.cutoff is None else one.cutoff.model_dump() for one in decided}
    return cutoffs[None] if None in cutoffs else {str(group): cutoff for group, cutoff in cutoffs.items()}


def outcome_of(job: Job, output: Folder, committed: Manifest, was_done: bool) -> Outcome:
    failed = committed.counts["failed"]
    exit_code = EXIT_FAILED_ROWS if failed > job.max_failed * committed.rows else EXIT_OK
    night = NightReport.of(output) if f"report/{nights.REPORT}" in committed.report else None
    return Outcome(str(output), committed, read_cost(output), night, was_done, exit_code)
