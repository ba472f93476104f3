"""A run: the stages in their order, from a job to a committed output. The only place that knows the order."""

from __future__ import annotations

import functools
import sys

from batchroute.config.job import Job
from batchroute.engines.base import Engine
from batchroute.engines.local import LocalEngine
from batchroute.errors import InputError, WaitingError
from batchroute.fields import SIDES
from batchroute.pipeline.audit import sample as audit
from batchroute.pipeline.batches import provider as batches
from batchroute.pipeline.commit import Outcome, commit, outcome_of
from batchroute.pipeline.context import Context, join
from batchroute.pipeline.identity import calibrated_limits, identify
from batchroute.pipeline.stages import merge, retry, score, snapshot
from batchroute.pipeline.stages.decide import check_budget
from batchroute.pipeline.stages.escalate import escalate
from batchroute.pipeline.stages.fetch import fetch
from batchroute.pipeline.stages.generate import generate, generate_ahead
from batchroute.pipeline.stages.load import load
from batchroute.pipeline.stages.partition import partition, read_partition
from batchroute.pipeline.stages.report import write_report
from batchroute.progress import Progress
from batchroute.reports import night as nights
from batchroute.storage import manifest
from batchroute.storage.folder import Folder
from batchroute.storage.manifest import Manifest
from batchroute.storage.objects import folder_at
from batchroute.storage.parquet import is_ours
from batchroute.storage.workdir import Workdir, run_ids, work_root
from batchroute.tables.sources import source_of
from batchroute.tables.targets import target_of
from batchroute.tables.targets.base import is_loaded


def run(
    job: Job,
    progress: Progress,
    fresh: bool = False,
    retry_failed: bool = False,
    wait: bool = True,
    engine: Engine | None = None,
) -> Outcome:
    """Run the job, or go on with a run of it that was stopped; does nothing when it is committed already.

    Args:
        fresh: first remove what this output holds, committed or not.
        retry_failed: ask the models again for the rows that failed.
        wait: for provider batches to end.
        engine: who carries units out; this process unless set. Of several ranks the first one runs, the others follow.

    Raises:
        InputError: the job or its input is wrong, or the output belongs to another job.
        StoppedError: the run stopped by itself and can be resumed.
        WaitingError: provider batches have not ended; a later run picks up what they bring.
        Terminated: SIGTERM arrived; the run can be resumed.
    """
    engine = engine or LocalEngine(progress)
    with engine.terminable():
        return _run(job, engine, fresh, retry_failed, wait)


def follow(job: Job, engine: Engine, wait: bool = True) -> None:
    """Take part, as another rank than the first, in the run that the first one runs; raises as `run`."""
    with engine.terminable():
        _work(join(job, engine.broadcast(lambda: None), engine), wait)


def _run(job: Job, engine: Engine, fresh: bool, retry_failed: bool, wait: bool) -> Outcome:
    output, progress = output_folder(job), engine.progress
    identity = identify(job)
    target = target_of(job.output.table, job.input.id)
    if fresh:
        if target is not None and job.input.in_place:
            is_loaded(target, sys.maxsize, target.loads(identity.run_id))
        for line in _abandon(job, output):
            progress.note("fresh", line)
        discard(output)
    found = snapshot.committed(output, identity)
    if found is not None and not (retry_failed and found.counts["failed"]):
        _refuse_newer(job, output, found)
        if target is not None:
            load(job, target, output, found, progress)
        return outcome_of(job, output, found, was_done=True)
    if found is not None and identity.run_id not in run_ids(output):
        raise InputError(f"--retry-failed needs {work_root(output)}, which is gone; start anew with --fresh")
    if found is not None and target is not None:
        is_loaded(target, sys.maxsize, target.loads(found.load_id))
    if job.input.in_place:
        frozen, table = snapshot.inspect(job, identity)
        _prepare(output, progress)
    else:
        _prepare(output, progress)
        snapshot.refuse_others(output, identity)
        fetched = fetch(job, Workdir(output, identity.run_id), progress)
        frozen, table = snapshot.inspect(job, identity, fetched)
    if target is not None:
        target.prepare(merge.output_schema(job, table))
        loads = target.loads(manifest.load_id(frozen.run_id, frozen.source))
        # Asked in this order: another attempt at this run that was faster has committed before it has loaded.
        if found is None and manifest.read(output) is None:
            is_loaded(target, sys.maxsize, loads)
    check_budget(job, frozen)
    frozen, work = snapshot.begin(job, identity, frozen, table, output)
    retry.finish_reopening(work)
    if retry_failed:
        again = retry.reopen_failed(work, frozen)
        progress.note("retry", f"asking again for {again:,} failed rows", rows=again)
    context = Context(job, frozen, table, work, engine)
    progress.note(
        "begin", f"run {frozen.run_id}: {frozen.rows:,} rows in {len(frozen.files):,} files", run=frozen.run_id
    )
    for line in calibrated_limits(job):
        progress.note("policy", line)
    engine.broadcast(lambda: frozen.run_id)
    _work(context, wait)
    assigned = read_partition(work)
    assert assigned is not None
    night = write_report(context, assigned)
    committed = commit(context, assigned, night)
    if target is not None:
        load(job, target, output, committed, progress)
    if not job.output.keep_work:
        work_root(output).remove_all()
    return outcome_of(job, output, committed, was_done=False)


def _work(context: Context, wait: bool) -> None:
    """The stages whose units all ranks share, and what one of them does between two of these."""
    engine = context.engine
    engine.on_rank_zero(lambda: audit.check_metric(context))
    score.score(context)
    engine.barrier()
    engine.on_rank_zero(lambda: partition(context))
    _answer(context, wait)
    merge.merge(context)
    engine.barrier()
    audit.measure(context)
    engine.barrier()


def _answer(context: Context, wait: bool) -> None:
    """Both models' answers to all their rows, and the large one's to those that are audited.

    Raises:
        WaitingError: provider batches have not ended, and are not waited for.
    """
    engine = context.engine
    behind_batches = [side for side in SIDES if context.job.models.of(side).backend == "openai_batch"]
    for side in behind_batches:
        # At once: the provider works on them while the other model answers.
        engine.on_rank_zero(functools.partial(batches.submit, context, side))
    with engine.overlapped(lambda: generate_ahead(context, "large")):
        answered = generate(context, "small", wait)
    engine.barrier()
    if answered:
        engine.on_rank_zero(lambda: escalate(context))
        engine.on_rank_zero(lambda: audit.deal(context))
    answered = generate(context, "large", wait) and answered
    engine.barrier()
    if not answered:
        raise WaitingError("the provider's batches have not ended yet: run again later to go on")


def _abandon(job: Job, output: Folder) -> list[str]:
    return [line for run_id in run_ids(output) for line in batches.abandon(job, Workdir(output, run_id))]


def is_committed(job: Job) -> bool:
    """Whether there is nothing left to do but to say so; raises as `run`."""
    return snapshot.committed(output_folder(job), identify(job)) is not None


def _refuse_newer(job: Job, output: Folder, found: Manifest) -> None:
    """A table whose version the job leaves open has another one each night; a committed output is of one of them."""
    if not job.input.is_versioned:
        return
    source = source_of(job.input)
    now, then = source.pin()["version"], found.source.get("version")
    if now != then:
        raise InputError(
            f"{output} holds the committed output of version {then} of {source.public}, which is at {now} now; choose "
            f"another output.uri, set input.version to {then}, or start anew with --fresh"
        )


def _prepare(output: Folder, progress: Progress) -> None:
    warning = output.check_create_only()
    if warning is not None:
        progress.note("storage", warning)


def output_folder(job: Job) -> Folder:
    output = folder_at(job.output.uri, job.output.storage_options, job.output.single_writer)
    if output.is_file():
        raise InputError(f"output.uri {output} is a file; name a folder")
    return output


def discard(output: Folder) -> None:
    """Remove a run and its output. The manifest goes first: from then on nothing here counts as committed."""
    output.remove(manifest.MANIFEST)
    data, reports = output.folder("data"), output.folder("report")
    for name in data.names(".parquet"):
        # Files that no run wrote are not ours to remove; the run that follows refuses to begin beside them.
        if is_ours(data, name):
            data.remove(name)
    for name in nights.FILES:
        reports.remove(name)
    work_root(output).remove_all()
