"""A run: the stages in their order, from a job to a committed output. The only place that knows the order."""

from __future__ import annotations

import datetime
import functools
import os
import socket
import sys
import uuid
from dataclasses import dataclass
from typing import Any

from batchroute import generators, models
from batchroute.config.job import SIDES, Job
from batchroute.costs.report import CostReport
from batchroute.engines.base import Engine
from batchroute.engines.local import LocalEngine
from batchroute.errors import EXIT_FAILED_ROWS, EXIT_OK, InputError, WaitingError
from batchroute.pipeline.audit import sample as audit
from batchroute.pipeline.batches import provider as batches
from batchroute.pipeline.context import Context, join
from batchroute.pipeline.identity import Identity, calibrated_point, identify
from batchroute.pipeline.stages import merge, retry, score, snapshot
from batchroute.pipeline.stages.decide import check_budget
from batchroute.pipeline.stages.escalate import escalate
from batchroute.pipeline.stages.fetch import fetch
from batchroute.pipeline.stages.generate import generate, generate_ahead
from batchroute.pipeline.stages.load import load
from batchroute.pipeline.stages.night import quality
from batchroute.pipeline.stages.partition import Partition, partition, read_partition
from batchroute.pipeline.stages.report import read_cost, write_report
from batchroute.policy.settings import Way
from batchroute.progress import Progress
from batchroute.reports import night as nights
from batchroute.reports.night import NightReport
from batchroute.storage import manifest
from batchroute.storage.folder import Folder
from batchroute.storage.manifest import DataFile, Manifest
from batchroute.storage.objects import folder_at
from batchroute.storage.workdir import Workdir, is_ours, run_ids, work_root
from batchroute.tables.files import Files
from batchroute.tables.parquet import PromptTable
from batchroute.tables.sources import source_of
from batchroute.tables.targets.base import is_loaded, target_of
from batchroute.tables.types import portable_schema


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
        _work(join(job, engine.agree(lambda: None), engine), wait)


def _run(job: Job, engine: Engine, fresh: bool, retry_failed: bool, wait: bool) -> Outcome:
    output, progress = _output(job), engine.progress
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
        return _outcome(job, output, found, was_done=True)
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
    for line in _calibrated(job):
        progress.note("policy", line)
    engine.agree(lambda: frozen.run_id)
    _work(context, wait)
    dealt = read_partition(work)
    assert dealt is not None
    night = write_report(context, dealt)
    committed = _commit(context, dealt, night)
    if target is not None:
        load(job, target, output, committed, progress)
    if not job.output.keep_work:
        work_root(output).remove_all()
    return _outcome(job, output, committed, was_done=False)


def _work(context: Context, wait: bool) -> None:
    """The stages whose units all ranks share, and what one of them does between two of these."""
    engine = context.engine
    engine.once(lambda: audit.check_metric(context))
    score.score(context)
    engine.meet()
    engine.once(lambda: partition(context))
    _answer(context, wait)
    merge.merge(context)
    engine.meet()
    audit.measure(context)
    engine.meet()


def _answer(context: Context, wait: bool) -> None:
    """Both models' answers to all their rows, and the large one's to those that are audited.

    Raises:
        WaitingError: provider batches have not ended, and are not waited for.
    """
    engine = context.engine
    behind_batches = [side for side in SIDES if context.job.models.of(side).backend == "openai_batch"]
    for side in behind_batches:
        # At once: the provider works on them while the other model answers.
        engine.once(functools.partial(batches.submit, context, side))
    with engine.ahead(lambda: generate_ahead(context, "large")):
        answered = generate(context, "small", wait)
    engine.meet()
    if answered:
        engine.once(lambda: escalate(context))
        engine.once(lambda: audit.deal(context))
    answered = generate(context, "large", wait) and answered
    engine.meet()
    if not answered:
        raise WaitingError("the provider's batches have not ended yet: run again later to go on")


def _abandon(job: Job, output: Folder) -> list[str]:
    return [line for run_id in run_ids(output) for line in batches.abandon(job, Workdir(output, run_id))]


def is_committed(job: Job) -> bool:
    """Whether there is nothing left to do but to say so; raises as `run`."""
    return snapshot.committed(_output(job), identify(job)) is not None


def validate(job: Job) -> list[str]:
    """Check everything that can be checked without running: one line for each thing that is well.

    Raises:
        InputError: the first thing that is not.
    """
    output = _output(job)
    identity = identify(job)
    target = target_of(job.output.table, job.input.id)
    lines, units = _validate_files(job, identity) if job.input.in_place else _validate_source(job)
    models.check(job.router.model, router=True, allow_pickle=job.router.allow_pickle)
    lines.append(f"router   {job.router.model}")
    lines += [f"policy   {line}" for line in _calibrated(job)]
    for side in SIDES:
        lines.append(f"{side:<8} {generators.check(job.models.of(side))}")
    found = snapshot.committed(output, identity)
    snapshot.refuse_others(output, identity)
    output.check_writable()
    if target is not None:
        target.loads(identity.run_id)
        lines.append(f"table    {target.public}: can be asked")
    state = "committed already" if found else "to resume" if identity.run_id in run_ids(output) else "new"
    return [*lines, f"output   {output}: {state}", f"units    {units}"]


def _validate_files(job: Job, identity: Identity) -> tuple[list[str], str]:
    frozen, table = snapshot.inspect(job, identity)
    check_budget(job, frozen)
    lines = [f"input    {frozen.rows:,} rows in {len(frozen.files):,} files, prompts are {frozen.prompt_kind}"]
    if job.input.id is not None:
        snapshot.check_ids(table, job.input.id)
        lines.append(f"ids      {job.input.id}: unique, none null")
    return lines, f"{len(frozen.chunks()):,} to score, {len(frozen.parts()):,} files to write"


def _validate_source(job: Job) -> tuple[list[str], str]:
    """Asks for the columns alone."""
    source = source_of(job.input)
    table = PromptTable([], portable_schema(source.schema(source.pin())), [0], Files())
    kind = snapshot.check_columns(job, table)
    return [f"input    {source.public}, prompts are {kind}"], "known when the rows are fetched"


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


def _calibrated(job: Job) -> list[str]:
    """What the router's calibration makes of limits on the drop, in words, a line each."""
    return [
        ("" if group is None else f"{group}: ") + _limited(job, way)
        for group, way in job.policy.ways()
        if way.max_quality_drop is not None
    ]


def _limited(job: Job, way: Way) -> str:
    goal, point = way.words, calibrated_point(job, way)
    if point is None:
        return f"{goal}: no threshold of the calibration keeps within it, so all rows go to the large model"
    return (
        f"{goal}: threshold {point.threshold:.4g}, on the calibration rows {point.cost_advantage:.0%} to small "
        f"with a drop of {point.drop:.2f} % (at most {point.bound:.2f} % with 95 % confidence)"
    )


def _output(job: Job) -> Folder:
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


def _commit(context: Context, dealt: Partition, night: NightReport) -> Manifest:
    report = night.cost
    frozen, by = context.snapshot, f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    parts = context.work.stage(merge.STAGE).receipts().values()
    # The last check before anything counts: every row of the input is in the output, once.
    assert sum(part.rows for part in parts) == frozen.rows
    committed = Manifest(
        name=context.job.name,
        run_id=frozen.run_id,
        fingerprint=frozen.fingerprint,
        settings=frozen.settings,
        source=frozen.source,
        input_files=[file.identity() for file in frozen.files],
        committed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        committed_by=by,
        rows=frozen.rows,
        counts=report.rows,
        cutoff=_cutoff(dealt),
        files=[DataFile(path=f"data/{p.file}", rows=p.rows, bytes=p.bytes, sha256=p.sha256) for p in parts],
        report=[f"report/{name}" for name in nights.FILES if name != nights.AUDIT or night.audit is not None],
        cost=report.model_dump(mode="json", include={"total_cost", "baseline", "savings", "missing_prices"}),
        quality=quality(night),
        versions=manifest.versions(),
    )
    committed.put(context.work.output)
    winner = manifest.read(context.work.output)
    assert winner is not None
    if winner.committed_by != by:
        context.engine.progress.note(
            "lost", f"this run was committed by {winner.committed_by} first, with the same rows; nothing is left to do"
        )
    return winner


def _cutoff(dealt: Partition) -> dict[str, Any]:
    """Of all rows, or by group; empty for a budget, which has none."""
    found = {decided.group: {} if decided.cutoff is None else decided.cutoff.model_dump() for decided in dealt.decided}
    return found[None] if None in found else {str(group): cutoff for group, cutoff in found.items()}


def _outcome(job: Job, output: Folder, committed: Manifest, was_done: bool) -> Outcome:
    failed, rows = committed.counts["failed"], committed.rows
    exit_code = EXIT_FAILED_ROWS if failed > job.max_failed * rows else EXIT_OK
    night = NightReport.of(output) if f"report/{nights.REPORT}" in committed.report else None
    return Outcome(str(output), committed, read_cost(output), night, was_done, exit_code)
