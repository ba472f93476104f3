"""Events of lineage of whole jobs, to a real server and into a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchroute.commands.validate import validate
from batchroute.errors import InputError, StoppedError, Terminated, WaitingError
from batchroute.pipeline.context import output_folder
from batchroute.pipeline.identity import identify
from batchroute.pipeline.lineage import emitting
from batchroute.pipeline.run import run
from batchroute.progress import NoProgress
from batchroute.storage.workdir import run_ids
from tests.reports.export.test_notify import Hook
from tests.support.jobs import JobFolder, table
from tests.support.openlineage import check
from tests.support.pictures import undrawn_pictures

ROWS = 60
PARENT = "airflow/nightly.batchroute/0192aeb5-0000-7000-8000-00000000000a"
ROOT = "airflow/nightly/0192aeb5-0000-7000-8000-00000000000b"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NAMESPACE", "API_KEY", "DISABLED", "PARENT_ID", "ROOT_PARENT_ID"):
        monkeypatch.delenv(f"OPENLINEAGE_{name}", raising=False)


class Notes(NoProgress):
    """Keeps the notes; raises an error where the large model is loaded."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.of_lineage = error, []

    def note(self, event: str, message: str, **fields: Any) -> None:
        if event == "lineage":
            self.of_lineage.append(message)
        if self.error is not None and message.startswith("loading the large"):
            raise self.error


def attempt(folder: JobFolder, error: BaseException | None = None, **options: bool) -> list[str]:
    """The warnings about lineage of an attempt that ends by the error, or well."""
    notes = Notes(error)
    with undrawn_pictures():
        if error is None:
            run(folder.load(), notes, **options)
        else:
            with pytest.raises(type(error)):
                run(folder.load(), notes, **options)
    return notes.of_lineage


def read(path: Path) -> list[dict[str, Any]]:
    return [check(json.loads(line)) for line in path.read_text().splitlines()]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["eventType"] for event in events]


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path, table(ROWS), lineage={"file": str(tmp_path / "to" / "events.jsonl")})


@pytest.fixture
def written(folder: JobFolder) -> Path:
    return Path(folder.settings["lineage"]["file"])


def test_a_server_gets_the_run_and_one_that_resumes_it_goes_on_under_its_id(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", PARENT)
    monkeypatch.setenv("OPENLINEAGE_ROOT_PARENT_ID", ROOT)
    monkeypatch.setenv("LINEAGE_KEY", "planted-key")
    with Hook(201) as hook:
        folder.settings["lineage"] = {
            "url": f"http://{hook.host}",
            "api_key_env": "LINEAGE_KEY",
            "namespace": "nights",
            "nominal_time": "2026-11-24",
        }
        assert attempt(folder, StoppedError("the disk is full")) == []
        assert attempt(folder) == []
        hook.shutdown()
    assert {(method, path, headers["Authorization"]) for method, path, headers, _ in hook.asked} == {
        ("POST", "/api/v1/lineage", "Bearer planted-key")
    }
    events = [check(body) for body in hook.bodies]
    assert kinds(events) == ["START", "FAIL", "START", "COMPLETE"]
    assert len({event["run"]["runId"] for event in events}) == 1
    start, fail, _, complete = events
    assert start["job"]["namespace"], start["job"]["name"] == ("nights", "test")
    assert start["run"]["facets"]["nominalTime"]["nominalStartTime"] == "2026-11-24T00:00:00+00:00"
    above = start["run"]["facets"]["parent"]
    assert (above["job"]["namespace"], above["job"]["name"]) == ("airflow", "nightly.batchroute")
    assert above["run"]["runId"] == PARENT.rpartition("/")[2]
    assert above["root"]["run"]["runId"] == ROOT.rpartition("/")[2]
    assert start["run"]["facets"]["processing_engine"]["name"] == "batchroute"
    assert fail["run"]["facets"]["errorMessage"]["message"] == "the disk is full"
    (read_,), (wrote,) = complete["inputs"], complete["outputs"]
    assert (read_["namespace"], read_["name"]) == ("file", str(folder.input))
    assert (wrote["namespace"], wrote["name"]) == ("file", str(folder.output))
    statistics = read_["inputFacets"]["inputStatistics"]
    assert (statistics["rowCount"], statistics["fileCount"]) == (ROWS, 1)
    assert statistics["size"] == folder.input.stat().st_size
    assert wrote["outputFacets"]["outputStatistics"]["rowCount"] == ROWS
    assert wrote["outputFacets"]["outputStatistics"]["size"] == sum(
        path.stat().st_size for path in (folder.output / "data").iterdir()
    )
    types = {field["name"]: field["type"] for field in wrote["facets"]["schema"]["fields"]}
    assert (
        list(types)[:3] == [field["name"] for field in read_["facets"]["schema"]["fields"]] == ["id", "prompt", "team"]
    )
    assert types["cost"] == "decimal128(20, 12)"
    report = json.loads((folder.output / "report" / "cost.json").read_text())
    cost = complete["run"]["facets"]["batchroute_cost"]
    assert cost["cost"] == float(report["total_cost"])
    assert cost["savings"] == pytest.approx(cost["baselineCost"] - cost["cost"])
    assert cost["small"] + cost["large"] == cost["rows"] == ROWS


def test_no_event_holds_a_prompt_or_an_answer(folder: JobFolder, written: Path) -> None:
    attempt(folder, RuntimeError(f"the words of {table(1)['prompt'][0]}"))
    attempt(folder)
    events = read(written)
    assert kinds(events) == ["START", "FAIL", "START", "COMPLETE"]
    message = events[1]["run"]["facets"]["errorMessage"]["message"]
    assert message.startswith("unexpected RuntimeError in batchroute/")
    assert [prompt for prompt in table(ROWS)["prompt"] if prompt.strip() in written.read_text()] == []
    assert [response for response in folder.answers()["response"] if response in written.read_text()] == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Terminated(), ["START", "ABORT"]),
        (KeyboardInterrupt(), ["START", "ABORT"]),
        (InputError("no such model"), ["START", "FAIL"]),
        # A later attempt ends it.
        (WaitingError("batches have not ended"), ["START"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_an_attempt_ends_is_said(
    folder: JobFolder, written: Path, error: BaseException, expected: list[str]
) -> None:
    assert attempt(folder, error) == []
    assert kinds(read(written)) == expected


def test_what_is_committed_is_complete_once(folder: JobFolder, written: Path) -> None:
    attempt(folder)
    attempt(folder)
    events = read(written)
    assert kinds(events) == ["START", "COMPLETE"]
    # As after a kill between the commit and the event.
    (run_id,) = run_ids(output_folder(folder.load()))
    (folder.output.with_name("out.work") / run_id / "lineage.json").unlink()
    attempt(folder)
    attempt(folder)
    again = read(written)
    assert kinds(again) == ["START", "COMPLETE", "COMPLETE"]
    assert {**again[2], "eventTime": ""} == {**events[1], "eventTime": ""}
    # Rows that are answered again are another commit of the run.
    folder.settings["lineage"]["namespace"] = "nights"
    attempt(folder, fresh=True)
    assert kinds(read(written)) == ["START", "COMPLETE", "COMPLETE", "START", "COMPLETE"]


def test_a_server_that_is_down_costs_one_line(folder: JobFolder) -> None:
    with Hook(500) as hook:
        host = hook.host
        hook.shutdown()
    folder.settings["lineage"] = {"url": f"http://ops:planted@{host}"}
    assert attempt(folder) == [f"{host} did not take the event of lineage: Connection refused"]
    assert folder.answers().height == ROWS


def test_a_client_that_is_broken_costs_one_line(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ModuleNotFoundError("attr")

    monkeypatch.setattr(emitting, "_events", broken)
    assert attempt(folder) == ["no event of lineage is sent: ModuleNotFoundError"]
    assert folder.answers().height == ROWS


def test_a_variable_turns_it_off(folder: JobFolder, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    attempt(folder)
    assert not written.exists()


def test_it_is_no_part_of_a_runs_identity(folder: JobFolder) -> None:
    before = identify(folder.load()).fingerprint
    del folder.settings["lineage"]
    assert identify(folder.load()).fingerprint == before


def test_without_the_client_a_job_is_refused_before_any_work(
    folder: JobFolder, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"lineage  {written}" in validate(folder.load())
    monkeypatch.setattr("batchroute.reports.export.lineage.importlib.util.find_spec", lambda name: None)
    for refuse in (lambda: validate(folder.load()), lambda: run(folder.load(), NoProgress())):
        with pytest.raises(InputError, match=r"^lineage needs a package: pip install 'batchroute\[lineage\]'$"):
            refuse()
    assert not folder.output.with_name("out.work").exists()
