"""batchroute: a nightly batch job that routes each prompt to a small or a large language model.

As a library it has the commands `run`, `validate` and `plan` as functions, and `read`, which reads what a run has
committed. Importing it costs milliseconds; each function imports what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from batchroute.errors import (
    BatchrouteError,
    FailedRowsError,
    InputError,
    StoppedError,
    Terminated,
    WaitingError,
)

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from batchroute.commands.library import Result
    from batchroute.commands.plan import Plan

__version__ = "0.1.0"

__all__ = [
    "BatchrouteError",
    "FailedRowsError",
    "InputError",
    "Plan",
    "Result",
    "StoppedError",
    "Terminated",
    "WaitingError",
    "__version__",
    "plan",
    "read",
    "run",
    "validate",
]


def run(
    job: str | os.PathLike[str] | Mapping[str, Any],
    set: Mapping[str, Any] | None = None,
    *,
    fresh: bool = False,
    retry_failed: bool = False,
    wait: bool = True,
    engine: Literal["local", "ray"] = "local",
    processes: int | str | None = None,
    progress: Callable[[dict[str, Any]], object] | None = None,
) -> Result:
    """Run a job, or go on with one that was stopped. After success, nothing is done twice.

    Args:
        job: path of a job file, or a dict of its sections.
        set: settings that replace the job's, by their dotted keys: `{"policy.threshold": 0.4}`.
        fresh: first remove what this output holds, committed or not.
        retry_failed: ask the models again for the rows that failed.
        wait: until provider batches have ended.
        engine: `local`: this process; `ray`: a Ray cluster.
        processes: 1 or None: ranks need the command `batchroute run --processes N`, as the error says.
        progress: called with the record of each unit and event, as `--json-logs` writes them; one call at a time,
            maybe from another thread. An error that it raises is logged, and the run goes on. Without it, the lines go
            to Python's logger `batchroute`.

    Raises:
        FailedRowsError: the run is committed, but more rows failed than `max_failed`; its `result` is the result.
        InputError: the job or its input is wrong, or the output belongs to another job.
        StoppedError: the run stopped by itself; the next call goes on.
        WaitingError: with `wait=False`: provider batches have not ended; a later call takes up their answers.
        Terminated: SIGTERM came in the main thread of a program that has no handler of it; the next call goes on.
    """
    from batchroute.commands import library

    return library.run(
        job,
        set,
        fresh=fresh,
        retry_failed=retry_failed,
        wait=wait,
        engine=engine,
        processes=processes,
        progress=progress,
    )


def validate(job: str | os.PathLike[str] | Mapping[str, Any], set: Mapping[str, Any] | None = None) -> list[str]:
    """Check a job's file, input, columns, models and output without running it: a line for each thing that is well.

    Args:
        job, set: as of `run`.

    Raises:
        InputError: the first thing that is not.
    """
    from batchroute.commands import library

    return library.validate(job, set)


def plan(
    job: str | os.PathLike[str] | Mapping[str, Any],
    set: Mapping[str, Any] | None = None,
    *,
    sample: int = 1_000,
    progress: Callable[[dict[str, Any]], object] | None = None,
) -> Plan:
    """What a run would do, cost and lose, without generating anything.

    Args:
        job, set, progress: as of `run`.
        sample: the most rows to score, unless a run has scored all.

    Raises:
        InputError: the job or its input is wrong, or the budget is less than the cheapest way to answer all rows.
    """
    from batchroute.commands import library

    return library.plan(job, set, sample=sample, progress=progress)


@overload
def read(
    output: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = ..., *, into: Literal["lazy"] = ...
) -> pl.LazyFrame: ...
@overload
def read(
    output: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = ..., *, into: Literal["polars"]
) -> pl.DataFrame: ...
@overload
def read(
    output: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = ..., *, into: Literal["arrow"]
) -> pa.Table: ...
@overload
def read(
    output: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = ..., *, into: Literal["batches"]
) -> Iterator[pa.RecordBatch]: ...
def read(
    output: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    into: Literal["lazy", "polars", "arrow", "batches"] = "lazy",
) -> Any:
    """The rows of a committed output, in input order: exactly the files of its manifest.

    Args:
        output: the `output.uri` of a job.
        storage_options: for the fsspec filesystem, as in the job file.
        into: `lazy`, a polars LazyFrame; `polars`, a DataFrame; `arrow`, a pyarrow Table; `batches`, an iterator of
            record batches, which holds one row group in memory.

    Raises:
        InputError: the output is not committed.
    """
    from batchroute.storage import reading

    return reading.read(os.fspath(output), storage_options, into)


def __getattr__(name: str) -> Any:
    """`Result` and `Plan`: their modules are imported when a program asks for them."""
    if name == "Result":
        from batchroute.commands.library import Result

        return Result
    if name == "Plan":
        from batchroute.commands.plan import Plan

        return Plan
    raise AttributeError(f"module 'batchroute' has no attribute {name!r}")
