"""A job over a table of a lake: one version of it, whatever happens to the table meanwhile."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import load_catalog

from batchroute.commands.validate import validate
from batchroute.config import loading
from batchroute.errors import InputError, StoppedError
from batchroute.pipeline.run import run
from tests.support.jobs import CutProgress, JobFolder, table
from tests.support.seaweed import SeaweedFS

ROWS = 40


class Lake:
    """A table that grows."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self._uri = kind, str(folder / "delta")
        self._catalog = {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/lake"}
        self.append(0, ROWS)

    def append(self, start: int, stop: int) -> int:
        """The version after it."""
        rows = table(stop).slice(start).with_columns(day=pl.lit(f"day-{start}")).to_arrow()
        rows = rows.cast(pa.schema([(name, pa.string()) for name in rows.schema.names]))
        if self.kind == "delta":
            write_deltalake(self._uri, rows, mode="append", partition_by=["day"])
            return DeltaTable(self._uri).version()
        catalog = load_catalog("default", **self._catalog)
        catalog.create_namespace_if_not_exists("lake")
        found = catalog.create_table_if_not_exists("lake.backlog", schema=rows.schema)
        found.append(rows)
        return int(found.current_snapshot().snapshot_id)  # type: ignore[union-attr]

    def input(self, **more: Any) -> dict[str, Any]:
        where = {"delta": self._uri} if self.kind == "delta" else {"iceberg": "lake.backlog", "catalog": self._catalog}
        return {**where, "id": "id", "prompt": "prompt", **more}


@pytest.fixture(params=["delta", "iceberg"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(request.param, tmp_path)


@pytest.fixture
def folder(lake: Lake, tmp_path: Path) -> JobFolder:
    made = JobFolder(tmp_path)
    made.settings["input"] = lake.input()
    return made


def test_the_version_that_a_run_began_with_is_the_one_it_ends_with(folder: JobFolder, lake: Lake) -> None:
    with pytest.raises(StoppedError, match="cut"):
        run(folder.load(), CutProgress("rows fetched"))
    now = lake.append(ROWS, ROWS + 5)
    assert folder.run().report.rows["ok"] == ROWS
    source = json.loads((folder.output / "manifest.json").read_text())["source"]
    assert source[lake.kind] == lake.input()[lake.kind]
    assert source["version"] != now
    with pytest.raises(InputError, match=rf"version {source['version']} of .*, which is at {now} now"):
        folder.run()
    folder.settings["output"]["uri"] += "2"
    assert folder.run().report.rows["ok"] == ROWS + 5


def test_versions_and_moments_may_be_chosen(folder: JobFolder, lake: Lake) -> None:
    before = lake.append(ROWS, ROWS + 1)
    moment = datetime.datetime.now(datetime.UTC).isoformat()
    lake.append(ROWS + 1, ROWS + 5)
    for name, value in (("version", before), ("timestamp", moment)):
        folder.settings["input"] = lake.input(**{name: value})
        folder.settings["output"]["uri"] += name
        assert folder.run().report.rows["ok"] == ROWS + 1
        assert folder.run().was_done


def test_partitions_may_be_chosen(folder: JobFolder, lake: Lake) -> None:
    lake.append(ROWS, ROWS + 5)
    folder.settings["input"] = lake.input(where=f"day = 'day-{ROWS}'")
    assert folder.run().report.rows["ok"] == 5
    assert folder.answers()["id"].sort().to_list() == [f"row-{i}" for i in range(ROWS, ROWS + 5)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 987654}, "987654|Snapshot|version"),
        ({"timestamp": "yesterday"}, "'yesterday' is no time"),
        ({"where": "nope = 1"}, "nope"),
        ({"where": "day =="}, r"(?i)sql|expected"),
        ({"delta": "nowhere", "iceberg": "lake.nowhere"}, "no Delta table|does not exist"),
        ({"prompt": "nope"}, "no column 'nope'"),
    ],
)
def test_what_will_never_work_is_one_sentence(
    folder: JobFolder, lake: Lake, change: dict[str, Any], message: str
) -> None:
    other = "iceberg" if lake.kind == "delta" else "delta"
    folder.settings["input"] = lake.input(**{name: value for name, value in change.items() if name != other})
    with pytest.raises(InputError, match=message) as found:
        folder.run()
    assert "\n" not in str(found.value)
    with pytest.raises(InputError, match=message):
        validate(folder.load())


def test_validate_reads_no_rows(folder: JobFolder) -> None:
    assert "prompts are text" in validate(folder.load())[0]
    assert not folder.output.exists()


def test_a_delta_table_is_not_read_as_files(tmp_path: Path) -> None:
    lake = Lake("delta", tmp_path)
    folder = JobFolder(tmp_path)
    folder.settings["input"]["uri"] = lake.input()["delta"]
    with pytest.raises(InputError, match=r"is a Delta table.*input\.delta"):
        folder.run()


@pytest.mark.parametrize("change", [{"uri": "x"}, {"query": "select 1"}, {"version": 1, "timestamp": "2026-01-01"}])
def test_a_source_is_one_table(folder: JobFolder, lake: Lake, change: dict[str, Any]) -> None:
    folder.settings["input"] = lake.input(**change)
    with pytest.raises(InputError, match=r"input: give|belong together"):
        loading.load(folder.path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


def test_delta_tables_in_a_bucket(server: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    source, target = "s3://bucket/backlog", "s3://bucket/answers"
    write_deltalake(source, table(ROWS).to_arrow(), storage_options={"aws_conditional_put": "etag"})
    folder = JobFolder(tmp_path)
    folder.settings["input"] = {"delta": source, "id": "id", "prompt": "prompt"}
    folder.settings["output"]["table"] = {"delta": target}
    assert folder.run().report.rows["ok"] == ROWS
    assert folder.run().was_done
    assert DeltaTable(target).count() == ROWS
