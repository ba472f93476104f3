"""`batchroute run`: a job in one process, as one of several ranks, or as the launcher of ranks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import typer

from batchroute import crash
from batchroute.config import loading
from batchroute.config.job import Job
from batchroute.engines.local import LocalEngine
from batchroute.engines.ranks import launcher
from batchroute.engines.ranks.ending import exit_code
from batchroute.engines.ranks.engine import Ranks, joined
from batchroute.engines.ranks.world import DIED, World
from batchroute.errors import EXIT_CRASHED, EXIT_OK, BatchrouteError, DiedError, InputError, Terminated
from batchroute.pipeline.commit import Outcome
from batchroute.pipeline.opening import is_committed
from batchroute.pipeline.run import follow
from batchroute.pipeline.run import run as run_job
from batchroute.progress import NoProgress, Progress, for_this_terminal
from batchroute.reports import console
from batchroute.reports.export import notify
from batchroute.reports.export.summary import summary
from batchroute.reports.headline import against_random, headline


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command, see its help."""

    fresh: bool = False
    retry_failed: bool = False
    wait: bool = True
    json_logs: bool = False
    processes: str | None = None
    nodes: int = 1
    node_rank: int | None = None
    master: str | None = None
    max_restarts: int = 0
    engine: Literal["local", "ray"] = "local"


def run(job_file: str, overrides: Sequence[str], options: Options) -> int:
    """Run the job and report how it ended; returns the exit code.

    Raises:
        BatchrouteError, Terminated, KeyboardInterrupt: the run failed, and the command line has to print why.
    """
    reporter = Reporter(for_this_terminal(options.json_logs), options.json_logs)
    world, ranks = World(), None
    try:
        world = World.from_environment()
        job = reporter.job = loading.load(job_file, overrides)
        plan = launcher.plan_launch(options.processes, options.nodes, options.node_rank, options.master, world)
        several = plan is not None or world.size > 1
        if several and not (options.fresh or options.retry_failed) and is_committed(job):
            # Rank 0 alone says so: the other ranks of a finished run may have ended, and never join.
            if not (world.is_rank_zero and (plan is None or plan.node_rank == 0)):
                return EXIT_OK
            plan, world, several = None, World(), False
        if options.engine == "ray" and several:
            raise InputError("--engine ray is one process, which hands units out: leave out --processes and --nodes")
        if plan is not None:
            note = reporter.progress.note
            return launcher.launch(plan, sys.argv[1:], options.max_restarts, lambda line: note("restart", line))
        with joined(world) as ranks:
            if ranks.is_rank_zero:
                _run_on_rank_zero(job, reporter, ranks, options)
            else:
                follow(job, LocalEngine(NoProgress(), ranks), options.wait)
        return ranks.exit_code
    except (BatchrouteError, KeyboardInterrupt, Terminated) as error:
        if ranks is not None and not ranks.reports_end:
            return exit_code(error, world)
        return reporter.end(error, world)
    except BaseException as error:
        return reporter.crashed(error, notified=ranks is None or ranks.is_rank_zero)


def _run_on_rank_zero(job: Job, reporter: Reporter, ranks: Ranks, options: Options) -> None:
    try:
        with engine_of(job, reporter.progress, ranks, options) as engine:
            outcome = run_job(job, reporter.progress, options.fresh, options.retry_failed, options.wait, engine)
    except BaseException as error:
        # Stop the other ranks before the notification, which may take long.
        ranks.stop(error)
        reporter.failed(error)
        raise
    report_outcome(outcome, job, reporter.progress, options.json_logs)
    ranks.exit_code = outcome.exit_code


@contextmanager
def engine_of(
    job: Job, progress: Progress, ranks: Ranks, options: Options, own_process: bool = True
) -> Iterator[LocalEngine]:
    """The engine of the options.

    Args:
        own_process: as of `LocalEngine`.
    """
    if options.engine == "local":
        yield LocalEngine(progress, ranks, own_process)
        return
    from batchroute.engines.ray.engine import RayEngine

    with closing(RayEngine(progress, job.ray, own_process)) as engine:
        yield engine


def report_outcome(outcome: Outcome, job: Job, progress: Progress, json_logs: bool) -> None:
    """Print the report and notify. The last line is one sentence; with JSON logs it is the record of the webhook."""
    output, night = outcome.output, outcome.night
    if not json_logs:
        if outcome.was_done:
            progress.note("nothing", _nothing(outcome))
        console.show(outcome.report)
        typer.echo(
            f"answers  {output}/data/*.parquet\nreport   {output}/report/report.html\nproof    {output}/manifest.json"
        )
    record = announce(outcome, job, progress)
    if json_logs:
        progress.note(**record)
    elif night is not None:
        for line in filter(None, (against_random(night), headline(night))):
            typer.echo(line)


def announce(outcome: Outcome, job: Job, progress: Progress) -> dict[str, Any]:
    """Note failed rows, and notify; returns the record of the webhook."""
    committed, night = outcome.manifest, outcome.night
    if committed.counts["failed"]:
        progress.note("failed_rows", failed_rows(outcome))
    nothing = _nothing(outcome)
    sentence = nothing if night is None else headline(night)
    event: notify.Event = "nothing" if outcome.was_done else "done" if outcome.exit_code == EXIT_OK else "failed"
    record = {
        "event": event,
        "message": nothing if outcome.was_done else sentence,
        "exit_code": outcome.exit_code,
        "output": outcome.output,
        **summary(outcome.report, night),
    }
    if night is not None:
        _warn(notify.publish(job.notify, night), progress)
    _warn(notify.send(job.notify, event, record), progress)
    return record


def failed_rows(outcome: Outcome) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in outcome.report.failures.items())
    verdict = "above" if outcome.exit_code != EXIT_OK else "within"
    return f"{outcome.manifest.counts['failed']:,} rows failed ({kinds}), {verdict} max_failed"


def _nothing(outcome: Outcome) -> str:
    return f"nothing to do: run {outcome.manifest.run_id} was committed at {outcome.manifest.committed_at}"


@dataclass
class Reporter:
    """Reports a failed run, once.

    Attributes:
        job: None while the job file has not been read.
    """

    progress: Progress
    json_logs: bool
    job: Job | None = None
    _reported: bool = False

    def end(self, error: BaseException, world: World) -> int:
        """Report the failure and return the exit code, or raise the error if the command line has to print it."""
        self.failed(error)
        code = exit_code(error, world)
        if not self.json_logs and code != DIED:
            raise error
        if not self.json_logs:
            self.progress.note("died", f"error: {error}")
        return code

    def crashed(self, error: BaseException, notified: bool) -> int:
        """Report an unexpected error and return the exit code, or raise the error for the command line to print it.

        Args:
            notified: whether this rank tells others too.
        """
        if notified:
            self.failed(error)
        elif self.json_logs:
            self.progress.note(**_record(error), traceback=crash.trace(error))
        if not self.json_logs:
            raise error
        return EXIT_CRASHED

    def failed(self, error: BaseException) -> None:
        """Write the failure to the JSON log and notify, unless that is done or the launcher starts the ranks again."""
        if self._reported or (isinstance(error, DiedError) and launcher.restarts_left()):
            return
        self._reported = True
        record = _record(error)
        if self.job is not None:
            record |= {"job_name": self.job.name, "output": self.job.output.uri}
            _warn(notify.send(self.job.notify, record["event"], record), self.progress)
        if self.json_logs:
            # A traceback is for those who read the log.
            more = {"traceback": crash.trace(error)} if record["event"] == "crashed" else {}
            self.progress.note(**record, **more)


def _record(error: BaseException) -> dict[str, Any]:
    event, code, message = notify.ending(error)
    return {"event": event, "message": message, "exit_code": code}


def _warn(warnings: list[str], progress: Progress) -> None:
    for warning in warnings:
        progress.note("notify", warning)
