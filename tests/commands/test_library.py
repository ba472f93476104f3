"""`batchroute` as a library: in a notebook, in a thread, in a program that has signal handlers of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import batchroute
from batchroute.errors import EXIT_FAILED_ROWS, FailedRowsError, InputError, StoppedError, Terminated, WaitingError
from tests.reports.export.test_notify import Hook
from tests.support.jobs import JobFolder, table
from tests.support.pictures import undrawn_pictures

ROWS = 90


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    with undrawn_pictures():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> JobFolder:
    return JobFolder(tmp_path_factory.mktemp("library"), table(ROWS))


@pytest.fixture
def job(folder: JobFolder, tmp_path: Path) -> dict[str, Any]:
    return {**folder.settings, "output": {"uri": tmp_path / "out"}}


def state() -> list[object]:
    """What a run could leave changed in its process."""
    return [
        {number: signal.getsignal(number) for number in signal.valid_signals()},
        dict(os.environ),
        sys.excepthook,
        sys.unraisablehook,
        threading.excepthook,
        logging.getLogger().handlers[:],
    ]


def test_a_job_runs_in_a_cell_of_a_notebook_twice(
    job: dict[str, Any], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A cell runs in a thread that has a running event loop."""
    before, given = state(), str(job)

    async def cell() -> list[batchroute.Result]:
        return [batchroute.run(job, {"policy.threshold": 0.0}), batchroute.run(job, {"policy": {"threshold": 0.0}})]

    first, again = asyncio.run(cell())
    assert capfd.readouterr() == ("", "")
    assert state() == before
    assert str(job) == given
    assert (first.was_done, again.was_done) == (False, True)
    assert (first.counts["small"], first.counts["large"], first.counts["failed"]) == (ROWS, 0, 0)
    assert first.rows == ROWS
    assert first.cost is not None
    assert Decimal(first.figures["total_cost"]) == first.cost
    assert first.sentence == again.sentence
    assert first.sentence.startswith("Routing 90 prompts cost $")
    assert first.figures["event"], again.figures["event"] == ("done", "nothing")
    assert first.report is not None
    assert all(Path(path).is_file() for path in (*first.data, first.report, first.manifest))
    assert first.output == str(tmp_path / "out")


def test_the_rows_come_in_four_forms(job: dict[str, Any]) -> None:
    result = batchroute.run(job)
    assert len(result.data) > 1
    frame = batchroute.read(result.output, into="polars")
    assert frame["id"].to_list() == table(ROWS)["id"].to_list()
    assert batchroute.read(Path(result.output)).collect().equals(frame)
    assert result.read("polars").equals(frame)
    arrow = result.read("arrow")
    assert isinstance(arrow, pa.Table)
    assert pl.DataFrame(arrow).equals(frame)
    batches = list(result.read("batches"))
    assert len(batches) > 1
    assert pa.Table.from_batches(batches).equals(arrow)
    with pytest.raises(InputError, match=r"^into is one of lazy, polars, arrow, batches, not 'pandas'$"):
        batchroute.read(result.output, into="pandas")  # type: ignore[call-overload]


def test_an_empty_input_has_rows_in_all_forms_too(tmp_path: Path, folder: JobFolder) -> None:
    table(0).write_parquet(tmp_path / "none.parquet")
    result = batchroute.run(
        {**folder.settings, "input": {"uri": tmp_path / "none.parquet"}, "output": {"uri": tmp_path / "out"}}
    )
    assert result.rows == result.read("arrow").num_rows == result.read("polars").height == 0
    assert "response" in result.read("arrow").schema.names
    assert sum(batch.num_rows for batch in result.read("batches")) == 0


def test_a_thread_runs_it_after_a_run_that_stopped(
    job: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run goes on: units that are done are not done again. Without `progress` the log has the lines."""
    caplog.set_level(logging.INFO, logger="batchroute")
    monkeypatch.setenv("TONIGHT", "test")
    with pytest.raises(StoppedError, match=r"^max_tokens 300: "):
        batchroute.run({**job, "name": "${TONIGHT}"}, {"max_tokens": 300})
    ended: list[batchroute.Result | BaseException] = []

    def task() -> None:
        try:
            ended.append(batchroute.run(job))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=task)
    thread.start()
    thread.join()
    (result,) = ended
    assert isinstance(result, batchroute.Result), result
    assert (result.rows, result.was_done) == (ROWS, False)
    assert {record.levelname for record in caplog.records} == {"INFO"}
    scored = [line for line in caplog.messages if line.startswith("score: ")]
    assert [line.split(" · ")[0] for line in scored] == ["score: 1/2 units", "score: 2/2 units"]


def test_the_callback_gets_each_unit_and_event_and_its_error_ends_no_night(
    job: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    records: list[dict[str, Any]] = []

    def callback(record: dict[str, Any]) -> None:
        records.append(record)
        if record["event"] == "begin":
            raise ValueError("a mistake in the callback")

    result = batchroute.run(job, progress=callback)
    assert records[0]["event"] == "begin"
    assert {record["stage"] for record in records if record["event"] == "unit"} == {
        "score",
        "partition",
        "small",
        "large",
        "merge",
    }
    assert records[-1] == {"time": records[-1]["time"], **result.figures}
    assert caplog.messages == ["progress= raised an error at the event begin; the run goes on"]


def test_too_many_failed_rows_are_an_error_that_has_the_result(tmp_path: Path, folder: JobFolder) -> None:
    rows = tmp_path / "in.parquet"
    table(ROWS).with_columns(prompt=pl.when(pl.int_range(ROWS) > 5).then("prompt")).write_parquet(rows)
    with Hook(200) as hook:
        job = {
            **folder.settings,
            "input": {"uri": rows},
            "output": {"uri": tmp_path / "out"},
            "notify": {"url": hook.url},
        }
        with pytest.raises(FailedRowsError, match=r"^6 rows failed \(6 null_prompt\), above max_failed$") as raised:
            batchroute.run(job)
        hook.shutdown()
    assert raised.value.exit_code == EXIT_FAILED_ROWS
    assert isinstance(raised.value.result, batchroute.Result)
    assert raised.value.result.counts["failed"] == 6
    assert [body["event"] for body in hook.bodies] == ["failed"]
    assert batchroute.run(job, {"max_failed": "50%", "notify": None}).was_done


def terminate(record: dict[str, Any]) -> None:
    if record["event"] == "begin":
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_without_a_handler_is_an_error_and_leaves_no_handler(job: dict[str, Any]) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(Terminated):
            batchroute.run(job, progress=terminate)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_programs_own_handler_of_the_signal_stays(job: dict[str, Any]) -> None:
    """As Airflow and Dagster have one."""

    class TaskEnded(BaseException):
        pass

    def handler(signum: int, frame: object) -> None:
        raise TaskEnded

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(TaskEnded):
            batchroute.run(job, progress=terminate)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert batchroute.run(job).rows == ROWS


def test_validate_and_plan_generate_nothing(job: dict[str, Any], folder: JobFolder, tmp_path: Path) -> None:
    lines = batchroute.validate(folder.path, {"output.uri": tmp_path / "out"})
    assert lines[0] == "input    90 rows in 1 files, prompts are text"
    plan = batchroute.plan(job, {"policy.small_share": "50%"}, sample=20)
    assert isinstance(plan, batchroute.Plan)
    assert (plan.snapshot.rows, plan.scored) == (ROWS, 20)
    assert plan.expected.small_share == 0.5
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("job", "changes", "sentence"),
    [
        (7, None, "^a job is the path of a job file, or a dict of its sections, not int$"),
        ("none.yaml", None, "^cannot read the job file none.yaml: No such file or directory$"),
        ({}, None, "^job: input: missing\njob: output: missing\njob: policy: missing\njob: models: missing$"),
        ({}, {"polcy.threshold": 0.4}, "job: polcy: unknown key; did you mean 'policy'\\?"),
        ({"name": "n"}, {"name.first": 1}, "^set name.first: 'name' is not a section$"),
        ({"name": "${NONE_SUCH}"}, None, "^job: name: the environment variable NONE_SUCH is not set"),
        ({}, ["name=n"], "^set is a dict of settings by their keys, such as {'policy.threshold': 0.4}$"),
    ],
)
def test_a_wrong_job_is_one_sentence(job: Any, changes: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        batchroute.run(job, changes)


@pytest.mark.parametrize(
    ("options", "environment", "sentence"),
    [
        ({"processes": 2}, {}, "^batchroute.run is one process. Ranks are processes of the command line"),
        ({"engine": "ranks"}, {}, "`batchroute run JOB.yaml --processes N`; or give units to a Ray cluster by engine="),
        ({"engine": "spark"}, {}, "^engine is 'local' or 'ray', not 'spark'$"),
        (
            {"processes": 1},
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "^this process is rank 1 of 2, and batchroute.run is one process: let the launcher start `-m batchroute",
        ),
    ],
)
def test_several_processes_are_refused_with_what_they_need(
    job: dict[str, Any],
    options: dict[str, Any],
    environment: dict[str, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=sentence):
        batchroute.run(job, **options)


def test_no_name_hides_a_folder_or_file_of_the_package() -> None:
    inside = {module.name for module in pkgutil.iter_modules(batchroute.__path__)}
    assert inside & set(batchroute.__all__) == set()
    assert all(getattr(batchroute, name) is not None for name in batchroute.__all__)
    assert batchroute.WaitingError is WaitingError
    with pytest.raises(AttributeError, match="'batchroute' has no attribute 'walk'"):
        batchroute.walk  # noqa: B018
