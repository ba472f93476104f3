"""An attempt: what `batchroute run` does, as the only process, as one of several ranks, or as their launcher."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import typer

from batchroute.config import loading
from batchroute.config.job import Job
from batchroute.engines.local import LocalEngine
from batchroute.engines.ranks import launcher
from batchroute.engines.ranks.engine import Ranks, exit_code, joined
from batchroute.engines.ranks.world import DIED, World
from batchroute.errors import EXIT_OK, BatchrouteError, DiedError, InputError, Terminated
from batchroute.pipeline import run as job
from batchroute.pipeline.commit import Outcome
from batchroute.progress import NoProgress, Progress, for_this_terminal
from batchroute.reports import console
from batchroute.reports.export import notify
from batchroute.reports.export.summary import summary
from batchroute.reports.headline import headline


@dataclass(frozen=True, slots=True)
class Attempt:
    """The options of the command: see its help."""

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


def run(job_file: str, overrides: Sequence[str], attempt: Attempt) -> int:
    """Run the job, and tell of its end; returns the exit code.

    Raises:
        BatchrouteError, Terminated, KeyboardInterrupt: what ended it, where it is still to be said.
    """
    telling = _Telling(for_this_terminal(attempt.json_logs), attempt.json_logs)
    world, ranks = World(), None
    try:
        world = World.here()
        asked = telling.asked = loading.load(job_file, overrides)
        wanted = launcher.asked_for(attempt.processes, attempt.nodes, attempt.node_rank, attempt.master, world)
        if (wanted or world.size > 1) and not (attempt.fresh or attempt.retry_failed) and job.is_committed(asked):
            # Nothing to wait for the others for: those of a finished run may have ended, and never come.
            if not (world.first and (wanted is None or wanted.node_rank == 0)):
                return EXIT_OK
            wanted, world = None, World()
        if attempt.engine == "ray" and (wanted is not None or world.size > 1):
            raise InputError("--engine ray is one process, which hands units out: leave out --processes and --nodes")
        if wanted is not None:
            note = telling.progress.note
            return launcher.launch(wanted, sys.argv[1:], attempt.max_restarts, lambda line: note("restart", line))
        with joined(world) as ranks:
            if ranks.first:
                _lead(asked, telling, ranks, attempt)
            else:
                job.follow(asked, LocalEngine(NoProgress(), ranks), attempt.wait)
        return ranks.exit_code
    except (BatchrouteError, KeyboardInterrupt, Terminated) as error:
        if ranks is not None and not ranks.speaks:
            return exit_code(error, world)
        return telling.end(error, world)
    except Exception as error:
        if ranks is None or ranks.first:
            telling.of_failure(error)
        raise


def _lead(asked: Job, telling: _Telling, ranks: Ranks, attempt: Attempt) -> None:
    try:
        with _engine(asked, telling.progress, ranks, attempt) as engine:
            outcome = job.run(asked, telling.progress, attempt.fresh, attempt.retry_failed, attempt.wait, engine)
    except BaseException as error:
        # The others stop at once, and not when whom the job notifies has answered.
        ranks.stop(error)
        telling.of_failure(error)
        raise
    tell(outcome, asked, telling.progress, attempt.json_logs)
    ranks.exit_code = outcome.exit_code


@contextmanager
def _engine(asked: Job, progress: Progress, ranks: Ranks, attempt: Attempt) -> Iterator[LocalEngine]:
    if attempt.engine == "local":
        yield LocalEngine(progress, ranks)
        return
    from batchroute.engines.ray.engine import RayEngine

    with closing(RayEngine(progress, asked.ray)) as engine:
        yield engine


@dataclass
class _Telling:
    """Tells once how an attempt has failed."""

    progress: Progress
    json_logs: bool
    asked: Job | None = None
    _told: bool = False

    def end(self, error: BaseException, world: World) -> int:
        """The exit code, when all is said; else raises the error, for the command line to say."""
        self.of_failure(error)
        code = exit_code(error, world)
        if not self.json_logs and code != DIED:
            raise error
        if not self.json_logs:
            self.progress.note("died", f"error: {error}")
        return code

    def of_failure(self, error: BaseException) -> None:
        if self._told or (isinstance(error, DiedError) and launcher.restarts_left()):
            return
        self._told = True
        tell_of_failure(error, self.asked, self.progress, self.json_logs)


def tell_of_failure(error: BaseException, asked: Job | None, progress: Progress, json_logs: bool) -> None:
    """Tell the log and whom the job notifies.

    Args:
        asked: None when the job file could not be read.
    """
    event, exit_code, message = notify.ending(error)
    record: dict[str, Any] = {"event": event, "message": message, "exit_code": exit_code}
    if asked is not None:
        record |= {"job_name": asked.name, "output": asked.output.uri}
        _warn(notify.send(asked.notify, event, record), progress)
    if json_logs:
        progress.note(**record)


def tell(outcome: Outcome, asked: Job, progress: Progress, json_logs: bool) -> None:
    """Tell the outcome. The last line is one sentence, and with JSON logs the record that a webhook is sent."""
    committed, output, night = outcome.manifest, outcome.output, outcome.night
    nothing = f"nothing to do: run {committed.run_id} was committed at {committed.committed_at}"
    sentence = nothing if night is None else headline(night)
    if not json_logs:
        if outcome.was_done:
            progress.note("nothing", nothing)
        console.show(outcome.report)
        typer.echo(
            f"answers  {output}/data/*.parquet\nreport   {output}/report/report.html\nproof    {output}/manifest.json"
        )
    if committed.counts["failed"]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in outcome.report.failures.items())
        verdict = "above" if outcome.exit_code != EXIT_OK else "within"
        progress.note("failed_rows", f"{committed.counts['failed']:,} rows failed ({kinds}), {verdict} max_failed")
    event: notify.Event = "nothing" if outcome.was_done else "done" if outcome.exit_code == EXIT_OK else "failed"
    record = {
        "event": event,
        "message": nothing if outcome.was_done else sentence,
        "exit_code": outcome.exit_code,
        "output": output,
        **summary(outcome.report, night),
    }
    if night is not None:
        _warn(notify.publish(asked.notify, night), progress)
    _warn(notify.send(asked.notify, event, record), progress)
    if json_logs:
        progress.note(**record)
    elif night is not None:
        typer.echo(sentence)


def _warn(warnings: list[str], progress: Progress) -> None:
    for warning in warnings:
        progress.note("notify", warning)
