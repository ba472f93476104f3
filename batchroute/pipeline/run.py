"""A run: the order of its stages, from a job to a committed output. No other file knows the order."""

from __future__ import annotations

import dataclasses

from batchroute.config.job import Job, without_samples
from batchroute.engines.base import Engine
from batchroute.engines.local import LocalEngine
from batchroute.errors import WaitingError
from batchroute.pipeline import opening
from batchroute.pipeline.audit.measure import measure_audit
from batchroute.pipeline.audit.sample import draw_audit
from batchroute.pipeline.batches.provider import submit_batches
from batchroute.pipeline.cache.recall import recall
from batchroute.pipeline.cache.remember import remember
from batchroute.pipeline.commit import Outcome, commit, outcome_of
from batchroute.pipeline.context import Context, join, output_folder
from batchroute.pipeline.identity import identify
from batchroute.pipeline.lineage.emitting import catch_up, traced
from batchroute.pipeline.metrics import check_metrics
from batchroute.pipeline.stages.defer import defer
from batchroute.pipeline.stages.escalate import escalate
from batchroute.pipeline.stages.generate import generate, generate_ahead
from batchroute.pipeline.stages.load import load
from batchroute.pipeline.stages.merge import merge
from batchroute.pipeline.stages.partition import partition, read_partition
from batchroute.pipeline.stages.read import read_answers
from batchroute.pipeline.stages.report import write_report
from batchroute.pipeline.stages.score import score
from batchroute.pipeline.tonight.draw import draw
from batchroute.pipeline.tonight.figures import conclude, read_tonight
from batchroute.pipeline.tonight.measure import measure_tonight
from batchroute.pipeline.tonight.reader import fit_reader
from batchroute.pipeline.tonight.way import read_way
from batchroute.progress import Progress
from batchroute.storage.workdir import work_root

_WAITING = "the provider's batches have not ended yet: run again later to go on"


def run(
    job: Job,
    progress: Progress,
    fresh: bool = False,
    retry_failed: bool = False,
    wait: bool = True,
    engine: Engine | None = None,
) -> Outcome:
    """Run the job, or go on with a run of it that was stopped; a committed run is only loaded into its table.

    Args:
        fresh: first remove what this output holds, committed or not.
        retry_failed: ask the models again for the rows that failed.
        wait: until provider batches have ended.
        engine: what runs the units of work; this process unless set. With several ranks, rank 0 calls `run`, and the
            others call `follow`.

    Raises:
        InputError: the job or its input is wrong, or the output belongs to another job.
        StoppedError: the run stopped by itself and can be resumed.
        WaitingError: provider batches have not ended; a later run takes up their answers.
        Terminated: SIGTERM arrived; the run can be resumed.
    """
    engine = engine or LocalEngine(progress)
    with engine.terminable():
        output, identity = output_folder(job), identify(job)
        if fresh:
            opening.start_over(job, output, identity, progress)
            identity = identify(job)
        committed = opening.finished(job, output, identity, retry_failed)
        if committed is not None:
            load(job, output, committed, progress)
            catch_up(job, output, committed, engine)
            return outcome_of(job, output, committed, was_done=True)
        context = opening.open_run(job, output, identity, engine, retry_failed)
        with traced(context) as complete:
            engine.broadcast(lambda: context.snapshot.run_id)
            _stages(context, wait)
            committed = commit(context, write_report(context))
            load(job, output, committed, progress)
            complete(committed)
        if not job.output.keep_work:
            work_root(output).remove_all()
        return outcome_of(job, output, committed, was_done=False)


def follow(job: Job, engine: Engine, wait: bool = True) -> None:
    """Take part, as a rank other than 0, in the run that rank 0 has opened; raises as `run`."""
    with engine.terminable():
        run_id = engine.broadcast(lambda: None)
        _stages(join(job, run_id, engine), wait)


def _stages(context: Context, wait: bool) -> None:
    """The stages, on every rank. Their units are shared; between two stages rank 0 alone decides what comes next.

    Raises:
        WaitingError: provider batches have not ended, and the run does not wait for them.
    """
    engine = context.engine
    engine.on_rank_zero(lambda: check_metrics(context))
    score(context)
    engine.barrier()
    if context.job.policy.calibrate is not None:
        _calibrate_tonight(context, wait)
    engine.on_rank_zero(lambda: partition(context))
    if context.job.policy.decide == "auto" and engine.broadcast(lambda: _decides_before(context)):
        context = dataclasses.replace(context, job=without_samples(context.job))
    engine.on_rank_zero(lambda: recall(context, ("small", "large")))
    # The provider works on its batches while the other model answers here.
    engine.on_rank_zero(lambda: submit_batches(context))
    with engine.overlapped(lambda: generate_ahead(context, "large")):
        small_answered = generate(context, "small", wait)
    engine.barrier()
    if small_answered:
        if _answers_decide(context):
            read_answers(context, "small")
            engine.barrier()
        engine.on_rank_zero(lambda: escalate(context))
        if context.job.policy.looks_after:
            engine.on_rank_zero(lambda: defer(context))
        engine.on_rank_zero(lambda: draw_audit(context))
        engine.on_rank_zero(lambda: recall(context, ("escalated", "deferred", "audited")))
    large_answered = generate(context, "large", wait)
    engine.barrier()
    if not (small_answered and large_answered):
        raise WaitingError(_WAITING)
    engine.on_rank_zero(lambda: remember(context.job, context.work, engine.progress))
    merge(context)
    engine.barrier()
    measure_audit(context)
    engine.barrier()


def _decides_before(context: Context) -> bool:
    way = read_way(context.work)
    return way is not None and way.way == "before"


def _answers_decide(context: Context) -> bool:
    assigned = read_partition(context.work)
    assert assigned is not None
    return not assigned.decided


def _calibrate_tonight(context: Context, wait: bool) -> None:
    """Both models answer some rows of the night, and a metric measures what the policy has to know of them.

    The price is that each model is loaded once more.

    Raises:
        WaitingError: as `_stages`.
    """
    engine = context.engine
    if engine.broadcast(lambda: read_tonight(context.work) is not None):
        return
    engine.on_rank_zero(lambda: draw(context))
    engine.on_rank_zero(lambda: recall(context, ("calibration_small", "calibration_large")))
    engine.on_rank_zero(lambda: submit_batches(context))
    small_answered, large_answered = generate(context, "small", wait), generate(context, "large", wait)
    engine.barrier()
    if not (small_answered and large_answered):
        raise WaitingError(_WAITING)
    read_answers(context, "calibration_small")
    measure_tonight(context)
    engine.barrier()
    engine.on_rank_zero(lambda: fit_reader(context))
    engine.on_rank_zero(lambda: conclude(context))
