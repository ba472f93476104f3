"""Opening a run: what stands at its output already, and, unless the run is committed, the work folder to go on with."""

from __future__ import annotations

import sys

from batchroute.cache.files import CacheFiles
from batchroute.config.job import Job
from batchroute.engines.base import Engine
from batchroute.errors import InputError
from batchroute.pipeline.batches.abandon import abandon
from batchroute.pipeline.cache.place import cache_folder
from batchroute.pipeline.cache.remember import remember
from batchroute.pipeline.context import Context, output_folder
from batchroute.pipeline.identity import Identity, calibrated_limits, identify
from batchroute.pipeline.stages import results, retry, snapshot
from batchroute.pipeline.stages.constraints import check_constraints
from batchroute.pipeline.stages.decide import check_budget
from batchroute.pipeline.stored_confidence import check_limits
from batchroute.progress import Progress
from batchroute.reports import night as nights
from batchroute.reports.export import lineage
from batchroute.storage import manifest
from batchroute.storage.folder import Folder
from batchroute.storage.manifest import Manifest
from batchroute.storage.parquet import is_ours
from batchroute.storage.workdir import Workdir, run_ids, work_root
from batchroute.tables.sources import source_of
from batchroute.tables.targets import target_of
from batchroute.tables.targets.base import is_loaded


def is_committed(job: Job) -> bool:
    """Whether this very run is committed; raises as `run`."""
    return snapshot.committed(output_folder(job), identify(job)) is not None


def finished(job: Job, output: Folder, identity: Identity, retry_failed: bool) -> Manifest | None:
    """The manifest where nothing is left to generate; None where the run has to begin or to go on.

    Raises:
        InputError: another run is committed here, or the table of the input has a newer version than the committed one.
    """
    committed = snapshot.committed(output, identity)
    if committed is None or (retry_failed and committed.counts["failed"]):
        return None
    if job.input.is_versioned:
        _refuse_newer(job, output, committed)
    return committed


def _refuse_newer(job: Job, output: Folder, committed: Manifest) -> None:
    source = source_of(job.input)
    now, then = source.pin()["version"], committed.source.get("version")
    if now != then:
        raise InputError(
            f"{output} holds the committed output of version {then} of {source.public}, which is at {now} now; choose "
            f"another output.uri, set input.version to {then}, or start again with --fresh"
        )


def start_over(job: Job, output: Folder, identity: Identity, progress: Progress) -> None:
    """Remove the run that stands at the output, committed or not; cancel its provider batches.

    Raises:
        InputError: `output.table` has the rows of that run, and the next one would load them twice.
    """
    target = target_of(job.output.table, job.input.id)
    if target is not None and job.input.in_place:
        is_loaded(target, sys.maxsize, target.loads(identity.run_id))
    for run_id in run_ids(output):
        work = Workdir(output, run_id)
        for line in abandon(job, work):
            progress.note("fresh", line)
        # What it has paid for need not be paid again.
        remember(job, work, progress)
    discard(output)


def discard(output: Folder) -> None:
    """Remove a run and its output. The manifest goes first: without it nothing counts as committed."""
    output.remove(manifest.MANIFEST)
    data, reports = output.folder("data"), output.folder("report")
    for name in data.names(".parquet"):
        # Files that no run wrote stay; the next run refuses to begin while they are there.
        if is_ours(data, name):
            data.remove(name)
    for name in nights.FILES:
        reports.remove(name)
    work_root(output).remove_all()


def open_run(job: Job, output: Folder, identity: Identity, engine: Engine, retry_failed: bool) -> Context:
    """Freeze the input and begin the run, or take up the one that was begun; on rank 0.

    Args:
        retry_failed: reopen the units that hold failed rows.

    Raises:
        InputError: the job or its input is wrong, the output belongs to another run, or the answers do not fit into
            `output.table`.
    """
    progress = engine.progress
    lineage.check(job.lineage)
    check_limits(job)
    if cache_folder(job) is not None and job.cache is not None:
        # A put shows that the cache can be written, before anything is paid for.
        CacheFiles(job.cache).mark(job.cache.days)
    if retry_failed:
        _refuse_lost_work(job, output, identity)
    if job.input.in_place:
        frozen, table = snapshot.inspect(job, identity)
        if table.drift:
            progress.note("input", f"columns of the files differ: {table.drift}")
        _check_storage(output, progress)
    else:
        # Of warehouses, lakes and what their clients need.
        from batchroute.pipeline.stages.fetch import fetch

        _check_storage(output, progress)
        snapshot.refuse_others(output, identity)
        fetched = fetch(job, Workdir(output, identity.run_id), progress)
        frozen, table = snapshot.inspect(job, identity, fetched)
    target = target_of(job.output.table, job.input.id)
    if target is not None:
        schema = results.output_schema(job, table)
        for line in target.prepare(schema):
            progress.note("table", line)
        target.rehearse(schema)
        loads = target.loads(manifest.load_id(frozen.run_id, frozen.source))
        # The table is asked before the manifest: a faster attempt at this run commits first and loads second.
        try:
            notes, clash = check_constraints(job, target, schema, table), None
        except InputError as error:
            notes, clash = [], error
        if manifest.read(output) is None:
            is_loaded(target, sys.maxsize, loads)
            if clash is not None:
                raise clash
        for line in notes:
            progress.note("table", line)
    check_budget(job, frozen)
    frozen, work = snapshot.begin(job, identity, frozen, table, output)
    retry.finish_reopening(work)
    if retry_failed:
        reopened = retry.reopen_failed(work, frozen)
        progress.note("retry", f"asking again for {reopened:,} failed rows", rows=reopened)
    progress.note(
        "begin", f"run {frozen.run_id}: {frozen.rows:,} rows in {len(frozen.files):,} files", run=frozen.run_id
    )
    for line in calibrated_limits(job):
        progress.note("policy", line)
    return Context(job, frozen, table, work, engine)


def _refuse_lost_work(job: Job, output: Folder, identity: Identity) -> None:
    """Raises:
    InputError: a committed run has no work folder to retry from, or its rows are loaded where they cannot be replaced.
    """
    committed = snapshot.committed(output, identity)
    if committed is None:
        return
    if identity.run_id not in run_ids(output):
        raise InputError(f"--retry-failed needs {work_root(output)}, which is gone; start again with --fresh")
    target = target_of(job.output.table, job.input.id)
    if target is not None:
        is_loaded(target, sys.maxsize, target.loads(committed.load_id))


def _check_storage(output: Folder, progress: Progress) -> None:
    warning = output.check_create_only()
    if warning is not None:
        progress.note("storage", warning)
