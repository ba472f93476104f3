"""A job on S3, by a real server: input and output, reading back, and what is said when it does not work."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

import batchroute
from batchroute.commands.verify import verify
from batchroute.errors import InputError, StoppedError
from batchroute.storage.store import Store, _store
from tests.support.faults import FaultyProxy
from tests.support.jobs import JobFolder, table
from tests.support.moto import Moto
from tests.support.seaweed import SeaweedFS

ROWS = 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with Moto() as server:
        yield server


@pytest.fixture
def folder(server: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobFolder]:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    _store.cache_clear()
    folder = JobFolder(tmp_path, table(ROWS))
    base = f"s3://bucket/{tmp_path.name}"
    server.filesystem().put_file(str(folder.input), f"{base}/in/a.parquet")
    folder.settings["input"]["uri"] = f"{base}/in/*.parquet"
    folder.settings["output"] = {"uri": f"{base}/out"}
    yield folder
    _store.cache_clear()


def test_a_job_from_s3_to_s3_is_committed_once_and_read_back(folder: JobFolder, server: SeaweedFS) -> None:
    first = folder.run()
    assert not first.was_done
    again = folder.run()
    assert again.was_done
    rows = batchroute.read(first.output)
    assert rows.select("id").collect()["id"].to_list() == [f"row-{i}" for i in range(ROWS)]
    plain = pl.scan_parquet(f"{first.output}/data/*.parquet", storage_options=server.polars_options())
    assert plain.collect().equals(rows.collect())
    assert first.report.rows["ok"] == ROWS


def test_a_job_in_a_versioned_bucket_of_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moto: Moto
) -> None:
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    _store.cache_clear()
    folder, base = JobFolder(tmp_path, table(ROWS)), f"s3://versioned/{tmp_path.name}"
    for key in ("a.parquet", "b//c.parquet"):
        folder.input.unlink(missing_ok=True)
        half = table(ROWS).filter(pl.int_range(pl.len()) % 2 == ("//" in key))
        half.write_parquet(folder.input)
        moto.filesystem().put_file(str(folder.input), f"{base}/in/{key}")
    folder.settings["input"]["uri"] = f"{base}/in"
    folder.settings["output"] = {"uri": f"{base}/out"}
    with pytest.raises(StoppedError):
        folder.run("max_tokens=500")
    assert folder.run().report.rows["ok"] == ROWS
    assert folder.run().was_done
    assert verify(f"{base}/out").wrong == []
    again = folder.run(fresh=True)
    assert not again.was_done
    assert batchroute.read(again.output).collect().height == ROWS
    _store.cache_clear()


def test_the_answers_are_those_of_a_local_run(folder: JobFolder) -> None:
    output = folder.run().output
    remote = batchroute.read(output).collect()
    assert pl.DataFrame(batchroute.read(output, into="arrow")).equals(remote)
    assert pl.concat(map(pl.DataFrame, batchroute.read(output, into="batches"))).equals(remote)
    folder.settings["input"]["uri"], folder.settings["output"] = str(folder.input), {"uri": str(folder.output)}
    folder.run()
    assert folder.answers().equals(remote)


def test_hive_partitions_and_many_files(folder: JobFolder, server: SeaweedFS) -> None:
    base = folder.settings["output"]["uri"].removesuffix("/out")
    filesystem, frame = server.filesystem(), table(ROWS)
    for day in range(4):
        for part in range(2):
            path = folder.folder / "part.parquet"
            frame.filter(pl.int_range(pl.len()) % 8 == day * 2 + part).write_parquet(path)
            filesystem.put_file(str(path), f"{base}/days/day={day}/{part}.parquet")
    filesystem.pipe_file(f"{base}/days/_SUCCESS", b"")
    folder.settings["input"]["uri"] = f"{base}/days"
    rows = batchroute.read(folder.run().output).collect()
    assert rows.height == ROWS
    assert rows["day"].to_list() == [day for day in range(4) for _ in range(ROWS // 4)]


def test_an_input_that_changed_is_refused_with_its_name(folder: JobFolder, server: SeaweedFS) -> None:
    folder.run()
    changed = folder.settings["input"]["uri"].replace("*", "a")
    table(ROWS).reverse().write_parquet(folder.input)
    server.filesystem().put_file(str(folder.input), changed)
    with pytest.raises(InputError, match=r"of another input: s3://.*/in/a\.parquet has changed"):
        folder.run()


def test_work_is_not_kept_when_that_is_asked_for(folder: JobFolder, server: SeaweedFS) -> None:
    folder.settings["output"]["keep_work"] = False
    output = folder.run().output
    found = server.filesystem().find(f"{output}.work", detail=True).values()
    assert [entry for entry in found if entry["size"]] == []
    assert folder.run().was_done


def test_credentials_from_storage_options_are_used_and_written_nowhere(
    folder: JobFolder, server: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("BR_SECRET", "testsecret")
    options = {"key": "testkey", "secret": "${BR_SECRET}", "endpoint_url": server.endpoint}
    folder.settings["input"]["storage_options"] = folder.settings["output"]["storage_options"] = options
    output = folder.run().output
    filesystem = server.filesystem()
    for root in (output, f"{output}.work"):
        for name in filesystem.find(root):
            assert b"testsecret" not in filesystem.cat_file(name), name
    assert "testsecret" not in folder.log


def test_an_object_of_the_size_of_a_multipart_upload_is_put_once(folder: JobFolder) -> None:
    from batchroute.storage.objects import folder_at

    place = folder_at(folder.settings["output"]["uri"])
    assert place.check_create_only() is None
    content = os.urandom(1 << 20) * 110
    assert place.put_new("big", content)
    assert not place.put_new("big", content[:-1] + b"x")
    assert place.put_new("big", content)
    assert place.leftovers(0.0) == []


def test_uploads_that_never_ended_are_found_and_removed(folder: JobFolder, server: SeaweedFS) -> None:
    from batchroute.commands.gc import collect

    output = folder.run().output
    bucket, key = output.removeprefix("s3://").split("/", 1)
    server.filesystem().call_s3("create_multipart_upload", Bucket=bucket, Key=f"{key}/data/part-00099.parquet")
    (line, _) = collect(output, 0.0, dry_run=True)
    assert line.endswith("part-00099.parquet: a put that never ended")
    collect(output, 0.0)
    assert collect(output, 0.0) == []


@pytest.mark.parametrize(
    ("environment", "uri", "message"),
    [
        ({}, "s3://missing/out", "the bucket does not exist; create it"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, None, "check the credentials in use"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, None, "check the credentials in use"),
    ],
)
def test_what_will_never_work_is_one_sentence(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], uri: str | None, message: str
) -> None:
    folder.settings["input"]["uri"] = str(folder.input)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder.settings["output"]["uri"] = uri or folder.settings["output"]["uri"]
    with pytest.raises(InputError, match=message):
        folder.run()


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_is_wrong_is_named(folder: JobFolder, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    off = datetime.timedelta(hours=hours)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: datetime.datetime.now(datetime.UTC) + off)
    store = Store("s3", {}, clock=lambda: time.time() + off.total_seconds())
    with pytest.raises(InputError, match="this machine's clock is too far from the storage's; set it"):
        store.info(folder.settings["output"]["uri"])


def test_failed_rows_are_tried_again_and_a_run_begun_anew(folder: JobFolder, server: SeaweedFS) -> None:
    rows = table(4).with_columns(prompt=pl.Series(["a", "", "b", None]))
    rows.write_parquet(folder.input)
    server.filesystem().put_file(str(folder.input), folder.settings["input"]["uri"].replace("*", "a"))
    first = folder.run()
    assert first.report.rows["failed"] == 2
    again = folder.run(retry_failed=True)
    assert again.report.rows == first.report.rows
    folder.settings["policy"] = {"threshold": 0.0}
    with pytest.raises(InputError, match="--fresh"):
        folder.run()
    anew = folder.run(fresh=True)
    assert anew.report.rows["small"] == 2
    assert batchroute.read(anew.output).collect().height == 4


def test_an_endpoint_that_is_down_stops_the_run_for_another_day(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoppedError, match=r"cannot list s3://bucket: the storage does not answer"):
        Store("s3", {}, first_patience=1.0).entries("s3://bucket")


def test_only_the_columns_that_a_stage_needs_travel(
    folder: JobFolder, server: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = folder.settings["output"]["uri"].removesuffix("/out")
    wide = table(ROWS).with_columns(pl.Series("junk", [os.urandom(20_000).hex() for _ in range(ROWS)]))
    wide.write_parquet(folder.input)
    server.filesystem().put_file(str(folder.input), f"{base}/wide/a.parquet")
    folder.settings["input"]["uri"] = f"{base}/wide/*.parquet"
    with FaultyProxy(server.endpoint, rate=0.0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        folder.run()
    # The wide column is read by the merge alone; its answers go out again in the output and in the report's columns.
    assert proxy.counts["bytes out"] < 1.5 * folder.input.stat().st_size


def test_a_small_file_is_one_request(folder: JobFolder, server: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    base = folder.settings["output"]["uri"].removesuffix("/out")
    requests, heads = [], []
    for number in (1, 20):
        for part in range(number):
            rows = table(ROWS)[part * ROWS // number : (part + 1) * ROWS // number]
            rows.write_parquet(folder.input)
            server.filesystem().put_file(str(folder.input), f"{base}/{number}/{part:02}.parquet")
        folder.settings["input"]["uri"] = f"{base}/{number}"
        folder.settings["output"]["uri"] = f"{base}/out-{number}"
        with FaultyProxy(server.endpoint, rate=0.0) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            _store.cache_clear()
            assert batchroute.read(folder.run().output).collect()["id"].to_list() == table(ROWS)["id"].to_list()
        requests.append(proxy.counts["requests"])
        heads.append(proxy.counts["HEAD"])
    assert requests[1] - requests[0] <= 2 * 19
    # No file is asked for its size before it is read.
    assert heads[1] == heads[0]
