"""Inputs by address: files of a web server, and of a model hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from batchroute.errors import InputError, StoppedError
from batchroute.storage import store as stores
from batchroute.tables.files import Files
from batchroute.tables.text_files import TextFiles
from tests.support.addresses import Addresses
from tests.support.jobs import JobFolder, table

BIG = 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("web")
    table(50).write_parquet(made / "a.parquet")
    table(BIG).write_parquet(made / "big.parquet", compression="uncompressed")
    assert (made / "big.parquet").stat().st_size > 1 << 20
    (made / "lines.jsonl").write_text('{"id": 1, "prompt": "hello there"}\n')
    return made


@pytest.fixture
def server(folder: Path) -> Iterator[Addresses]:
    with Addresses(folder) as started:
        yield started


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Addresses]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with Addresses(folder) as started:
        yield started


def rows(files: Files) -> list[int]:
    return [pq.read_table(files.open(file)).num_rows for file in files.find()]


def test_a_job_reads_a_file_by_its_address(server: Addresses, tmp_path: Path) -> None:
    job = JobFolder(tmp_path, report={})
    job.settings["input"]["uri"] = f"{server.uri}/a.parquet"
    assert job.run().report.rows["ok"] == 50
    assert job.run().was_done


def test_large_files_are_read_in_parts_and_text_too(server: Addresses) -> None:
    assert rows(Files(f"{server.uri}/big.parquet")) == [BIG]
    (lines,) = TextFiles(f"{server.uri}/lines.jsonl", "jsonl").find()
    assert lines.size == 35


@pytest.mark.parametrize("etag", [True, False])
def test_a_file_is_known_by_its_etag_or_by_its_last_modification(folder: Path, etag: bool) -> None:
    with Addresses(folder, etag=etag) as server:
        files = Files(f"{server.uri}/big.parquet")
        (file,) = files.seal(files.find())
        assert file.etag is not None
        assert file.etag.endswith('"' if etag else "GMT")
        files.check_unchanged(file)
        (folder / "other").write_bytes(bytes(file.size))
        with pytest.raises(InputError, match="other has changed since the run began"):
            files.check_unchanged(file.model_copy(update={"path": f"{server.uri}/other", "etag": "another"}))
        os.unlink(folder / "other")


def test_a_server_that_gives_no_parts_is_named(folder: Path) -> None:
    with Addresses(folder, ranges=False) as server:
        assert rows(Files(f"{server.uri}/a.parquet")) == [50]
        with pytest.raises(InputError, match=r"big\.parquet cannot be read: its server gives no parts of a file"):
            Files(f"{server.uri}/big.parquet").find()


@pytest.mark.parametrize("files", [Files, lambda uri: TextFiles(uri, "jsonl")])
def test_what_is_not_there_is_no_such_file(server: Addresses, files: type[Files]) -> None:
    with pytest.raises(InputError, match=r"input\.uri: no such file: http://127\.0\.0\.1:\d+/none"):
        files(f"{server.uri}/none").find()


def test_a_refusal_says_what_to_set_and_a_token_helps(server: Addresses) -> None:
    server.token = "secret"
    with pytest.raises(
        InputError, match=r"the storage refuses them; set storage_options: \{headers: \{Authorization: …\}\}"
    ):
        Files(f"{server.uri}/a.parquet").find()
    assert rows(Files(f"{server.uri}/a.parquet", {"headers": {"Authorization": "Bearer secret"}})) == [50]


@pytest.mark.parametrize(
    "uri", ["https://me:hushhush@host/a.parquet", "http://host/a.parquet?X-Amz-Signature=hushhush"]
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(InputError, match="an address on host has a password or a signature in it") as found:
        Files(uri)
    assert "hushhush" not in str(found.value)


def test_lost_connections_are_tried_again(server: Addresses) -> None:
    server.faults = 2
    assert rows(Files(f"{server.uri}/a.parquet")) == [50]
    assert server.faults == 0


@pytest.mark.parametrize(
    ("uri", "options"), [("http://127.0.0.1:1/a", {}), ("hf://datasets/a/b/c", {"endpoint": "http://127.0.0.1:1"})]
)
def test_a_server_that_does_not_answer_stops_the_job_soon(
    uri: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    files = Files(uri, options)
    assert files._store is not None
    assert files._store._first_patience == stores._FIRST_PATIENCE
    files._store._first_patience = 0.1
    with pytest.raises(StoppedError, match="the storage does not answer; look at it, and run again"):
        files.find()


def test_a_data_set_of_a_hub_is_read_as_files_a_glob_and_a_folder(hub: Addresses) -> None:
    options = {"endpoint": hub.uri}
    wanted = [("hf://datasets/team/prompts/a.parquet", 50), ("hf://datasets/team/prompts/big.parquet", BIG)]
    for name in ("", "/*.parquet"):
        found = Files(f"hf://datasets/team/prompts{name}", options).find()
        assert [(file.path, file.rows) for file in found] == wanted
        assert all(file.etag for file in found)
    assert rows(Files("hf://datasets/team/prompts/big.parquet", options)) == [BIG]
    with pytest.raises(InputError, match="no such file: hf://datasets/team/prompts/none"):
        Files("hf://datasets/team/prompts/none", options).find()


def test_a_file_of_a_hub_that_changes_is_noticed(hub: Addresses, folder: Path) -> None:
    table(7).write_parquet(folder / "changing.parquet")
    files = Files("hf://datasets/team/prompts/changing.parquet", {"endpoint": hub.uri})
    (file,) = files.seal(files.find())
    table(8).write_parquet(folder / "changing.parquet")
    again = Files("hf://datasets/team/prompts/changing.parquet", {"endpoint": hub.uri})
    with pytest.raises(InputError, match="has changed since the run began"):
        again.check_unchanged(file.model_copy(update={"content": None}))
    os.unlink(folder / "changing.parquet")


def test_the_token_of_a_hub_comes_from_the_environment(hub: Addresses, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "secret"
    place = ("hf://datasets/team/prompts/a.parquet", {"endpoint": hub.uri})
    with pytest.raises(InputError, match="the storage refuses them; set HF_TOKEN to a token that may read it"):
        Files(*place).find()
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert rows(Files(*place)) == [50]


def test_lost_connections_to_a_hub_are_tried_again(hub: Addresses) -> None:
    hub.faults = 2
    assert rows(Files("hf://datasets/team/prompts/a.parquet", {"endpoint": hub.uri})) == [50]
    assert hub.faults == 0


def test_a_hub_that_may_not_be_asked_is_named_with_its_variable() -> None:
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set; unset it where there is a network, or name a copy"):
        Files("hf://datasets/team/prompts/a.parquet").find()
