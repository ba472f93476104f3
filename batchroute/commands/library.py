"""The commands as functions, for notebooks and for the tasks of a scheduler: `batchroute.run`, `validate` and `plan`.

They print nothing, end no process, leave no signal handler, and can be called in any thread, with or without a running
event loop. Errors are those of `batchroute.errors`; each has the exit code of the command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, overload

from batchroute.commands import plan as planning
from batchroute.commands import validate as validating
from batchroute.commands.run import Options, Reporter, announce, engine_of, failed_rows
from batchroute.config.job import Job
from batchroute.config.loading import JobFile, load_from_python
from batchroute.engines.ranks.engine import Ranks
from batchroute.engines.ranks.world import World
from batchroute.errors import EXIT_FAILED_ROWS, FailedRowsError, InputError
from batchroute.pipeline.commit import Outcome
from batchroute.pipeline.run import run as run_job
from batchroute.progress import Callback, CallbackProgress, LogProgress, Progress
from batchroute.reports.headline import headline
from batchroute.storage import manifest, reading, store

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl
    import pyarrow as pa


@dataclass(frozen=True)
class Result:
    """A committed run.

    Attributes:
        output: where it is: `output.uri`, as an absolute path or a URI.
        was_done: whether it was committed before this call, which then did nothing.
        rows: of the input, and so of the output.
        counts: rows by route (`small`, `large`), and the `failed` ones among them.
        cost, savings: USD, exact; None where a price is missing. Savings are against the large model alone.
        sentence: the night in one sentence.
        figures: the record of the last line of `--json-logs`, and of the webhook.
        data: the files of the output, in input order.
        report: the page; None if the run was committed without one.
        manifest: the file that proves the commit.
    """

    output: str
    run_id: str
    was_done: bool
    rows: int
    counts: dict[str, int]
    cost: Decimal | None
    savings: Decimal | None
    sentence: str
    figures: dict[str, Any]
    data: list[str]
    report: str | None
    manifest: str
    _storage_options: dict[str, Any] = field(repr=False)

    @overload
    def read(self, into: Literal["lazy"] = ...) -> pl.LazyFrame: ...
    @overload
    def read(self, into: Literal["polars"]) -> pl.DataFrame: ...
    @overload
    def read(self, into: Literal["arrow"]) -> pa.Table: ...
    @overload
    def read(self, into: Literal["batches"]) -> Iterator[pa.RecordBatch]: ...
    def read(self, into: reading.Into = "lazy") -> Any:
        """The rows, as `batchroute.read` gives them."""
        return reading.read(self.output, self._storage_options, into)


def run(
    job: JobFile,
    set: Mapping[str, Any] | None = None,
    *,
    fresh: bool = False,
    retry_failed: bool = False,
    wait: bool = True,
    engine: Literal["local", "ray"] = "local",
    processes: int | str | None = None,
    progress: Callback | None = None,
) -> Result:
    """See `batchroute.run`."""
    _check_one_process(engine, processes)
    loaded, shown = _begin(job, set, progress)
    reporter = Reporter(shown, json_logs=progress is not None, job=loaded)
    options = Options(fresh, retry_failed, wait, engine=engine)
    try:
        with engine_of(loaded, shown, Ranks(World()), options, own_process=False) as workers:
            outcome = run_job(loaded, shown, fresh, retry_failed, wait, workers)
    except BaseException as error:
        reporter.failed(error)
        raise
    record = announce(outcome, loaded, shown)
    shown.note(**record)
    result = _result(outcome, record, loaded.output.storage_options)
    if outcome.exit_code == EXIT_FAILED_ROWS:
        raise FailedRowsError(failed_rows(outcome), result)
    return result


def validate(job: JobFile, set: Mapping[str, Any] | None = None) -> list[str]:
    """See `batchroute.validate`."""
    return validating.validate(_begin(job, set)[0])


def plan(
    job: JobFile,
    set: Mapping[str, Any] | None = None,
    *,
    sample: int = planning.SAMPLE_ROWS,
    progress: Callback | None = None,
) -> planning.Plan:
    """See `batchroute.plan`."""
    if sample < 1:
        raise InputError(f"sample is a number of rows from 1; it is {sample}")
    return planning.make_plan(*_begin(job, set, progress), sample)


def _begin(job: JobFile, changes: Mapping[str, Any] | None, progress: Callback | None = None) -> tuple[Job, Progress]:
    # Between two calls a program may set other keys in its environment.
    store.forget()
    return load_from_python(job, changes), LogProgress() if progress is None else CallbackProgress(progress)


def _check_one_process(engine: str, processes: int | str | None) -> None:
    """Raises:
    InputError: several processes are asked for, or this is one of several ranks.
    """
    if engine == "ranks" or processes not in (None, 1, "1"):
        raise InputError(
            "batchroute.run is one process. Ranks are processes of the command line, which starts them itself: "
            "`batchroute run JOB.yaml --processes N`; or give units to a Ray cluster by engine='ray'"
        )
    if engine not in ("local", "ray"):
        raise InputError(f"engine is 'local' or 'ray', not {engine!r}")
    world = World.from_environment()
    if world.size > 1:
        raise InputError(
            f"this process is rank {world.rank} of {world.size}, and batchroute.run is one process: let the launcher "
            "start `-m batchroute run JOB.yaml`, or call batchroute.run outside of it"
        )


def _result(outcome: Outcome, record: dict[str, Any], storage_options: dict[str, Any]) -> Result:
    committed, report = outcome.manifest, outcome.report
    return Result(
        output=outcome.output,
        run_id=committed.run_id,
        was_done=outcome.was_done,
        rows=committed.rows,
        counts=dict(committed.counts),
        cost=report.total_cost,
        savings=None if report.savings is None else report.savings.usd,
        sentence=record["message"] if outcome.night is None else headline(outcome.night),
        figures=record,
        data=[f"{outcome.output}/{file.path}" for file in committed.files],
        report=f"{outcome.output}/report/report.html" if "report/report.html" in committed.report else None,
        manifest=f"{outcome.output}/{manifest.MANIFEST}",
        _storage_options=storage_options,
    )
