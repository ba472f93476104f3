"""Folders on Google Cloud Storage and Azure, by their emulators; and every spelling of a place in them and on S3."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.storage.blob.aio import ContainerClient
from gcsfs.core import GCSFileSystem
from google.auth.exceptions import DefaultCredentialsError

from batchroute.errors import InputError
from batchroute.storage.folder import Folder
from batchroute.storage.objects import folder_at
from batchroute.storage.store import Store, store_of
from batchroute.tables.files import Files
from batchroute.tables.text_files import TextFiles
from tests.storage.every_folder import EveryFolder
from tests.support.azurite import Azurite
from tests.support.faults import REFUSALS, FaultyProxy
from tests.support.google import GoogleStorage
from tests.support.jobs import table


@pytest.fixture(scope="module")
def google() -> Iterator[GoogleStorage]:
    with GoogleStorage() as server:
        yield server


@pytest.fixture(scope="module")
def azure() -> Iterator[Azurite]:
    with Azurite() as server:
        yield server


class TestGoogle(EveryFolder):
    @pytest.fixture
    def folder(self, google: GoogleStorage, tmp_path: Path) -> Folder:
        return folder_at(f"gs://bucket/{tmp_path.name}/a", google.options)


class TestAzure(EveryFolder):
    @pytest.fixture
    def folder(self, azure: Azurite, tmp_path: Path) -> Folder:
        return folder_at(f"az://bucket/{tmp_path.name}/a", azure.options)


SPELLINGS = {
    "google": ["gs://bucket", "gcs://bucket"],
    "azure": [
        *("az://bucket", "abfs://bucket", "abfss://bucket"),
        f"abfss://bucket@{Azurite.account}.dfs.core.windows.net",
    ],
}


@pytest.mark.parametrize(("cloud", "spelling"), [(cloud, one) for cloud, many in SPELLINGS.items() for one in many])
def test_every_spelling_is_the_same_place(
    cloud: str, spelling: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: GoogleStorage | Azurite = request.getfixturevalue(cloud)
    table(3).write_parquet(tmp_path / "a.parquet")
    keys = [f"{tmp_path.name}/day={day}/a.parquet" for day in "12"]
    for key in keys:
        server.filesystem().pipe_file(f"bucket/{key}", (tmp_path / "a.parquet").read_bytes())
    shown = {"google": "gs://bucket", "azure": "abfs://bucket"}[cloud]
    wanted = [(f"{shown}/{key}", 3, {"day": day}) for key, day in zip(keys, "12", strict=True)]
    for uri in (f"{spelling}/{tmp_path.name}", f"{spelling}/{tmp_path.name}/**/*.parquet"):
        assert [(file.path, file.rows, file.hive) for file in Files(uri, server.options).find()] == wanted
    (file,) = Files(f"{spelling}/{keys[0]}", server.options).find()
    assert (file.path, file.rows) == wanted[0][:2]
    assert folder_at(f"{spelling}/{tmp_path.name}/day=1", server.options).names("") == ["a.parquet"]


@pytest.mark.parametrize("cloud", SPELLINGS)
def test_a_key_with_an_empty_segment_is_read_too(cloud: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server: GoogleStorage | Azurite = request.getfixturevalue(cloud)
    table(3).write_parquet(tmp_path / "a.parquet")
    for key in ("a.parquet", "day//b.parquet"):
        server.filesystem().pipe_file(f"bucket/{tmp_path.name}/{key}", (tmp_path / "a.parquet").read_bytes())
    found = Files(f"{SPELLINGS[cloud][0]}/{tmp_path.name}", server.options).find()
    assert [file.path.partition(tmp_path.name)[2] for file in found] == ["/a.parquet", "/day//b.parquet"]


@pytest.mark.parametrize("cloud", SPELLINGS)
def test_a_missing_bucket_is_named(cloud: str, request: pytest.FixtureRequest) -> None:
    server: GoogleStorage | Azurite = request.getfixturevalue(cloud)
    uri = f"{SPELLINGS[cloud][0].replace('bucket', 'nobucket')}/a"
    what = "bucket" if cloud == "google" else "container"
    for use in (
        lambda: Files(uri, server.options).find(),
        lambda: Files(f"{uri}/*.parquet", server.options).find(),
        lambda: folder_at(uri, server.options).put_new("x", b"1"),
        lambda: folder_at(uri, server.options).read("x"),
        lambda: folder_at(uri, server.options).check_writable(),
    ):
        with pytest.raises(InputError, match=f"the {what} does not exist; create it"):
            use()


def test_a_wrong_key_is_a_sentence(azure: Azurite) -> None:
    options = {"connection_string": azure.connection(key="d3Jvbmc=")}
    for use in (
        lambda: folder_at("az://bucket/a", options).read("x"),
        lambda: folder_at("az://bucket/a", options).put_new("x", b"1"),
        lambda: Files("az://bucket/a/*.parquet", options).find(),
    ):
        # The emulator says that this key may not do it, Azure itself that it is refused.
        with pytest.raises(InputError, match=r"permission denied; .* set AZURE_STORAGE_CONNECTION_STRING"):
            use()


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("cloud", SPELLINGS)
def test_a_refusal_is_a_sentence_with_what_to_set(cloud: str, refusal: str, request: pytest.FixtureRequest) -> None:
    """The emulator of Google refuses nobody, so a proxy in front of it does."""
    server: GoogleStorage | Azurite = request.getfixturevalue(cloud)
    uri = f"{SPELLINGS[cloud][0]}/a"
    with FaultyProxy(server.endpoint, rate=1.0, kinds=[refusal]) as proxy:
        options = (
            {**server.options, "endpoint_url": proxy.endpoint}
            if isinstance(server, GoogleStorage)
            else {"connection_string": server.connection(proxy.endpoint)}
        )
        said = "the storage refuses them" if refusal == "unauthorized" else "permission denied"
        variable = "GOOGLE_APPLICATION_CREDENTIALS" if cloud == "google" else "AZURE_STORAGE_CONNECTION_STRING"
        for use in (
            lambda: Files(f"{uri}/*.parquet", options).find(),
            lambda: Files(f"{uri}/x.parquet", options).find(),
            lambda: folder_at(uri, options).read("x"),
            lambda: folder_at(uri, options).put_new("x", b"1"),
            lambda: folder_at(uri, options).check_create_only(),
        ):
            with pytest.raises(InputError, match=f"{said}; .*{variable}"):
                use()


@pytest.mark.parametrize("cloud", SPELLINGS)
def test_a_listing_of_many_pages_is_read_to_its_end(
    cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Pages are of 10 here: of 1,000 or 5,000 they would take a minute to fill."""
    monkeypatch.setattr(
        GCSFileSystem,
        "_sequential_list_objects_helper",
        functools.partialmethod(GCSFileSystem._sequential_list_objects_helper, items_per_call=10),
    )
    for name in ("walk_blobs", "list_blobs"):
        of_ten = functools.partialmethod(getattr(ContainerClient, name), results_per_page=10)
        monkeypatch.setattr(ContainerClient, name, of_ten)
    server: GoogleStorage | Azurite = request.getfixturevalue(cloud)
    keys = [f"bucket/{tmp_path.name}/day={number % 2}/{number:04}.jsonl" for number in range(45)]
    server.filesystem().pipe(dict.fromkeys(keys, b'{"prompt": "x"}\n'))
    uri = f"{SPELLINGS[cloud][0]}/{tmp_path.name}"
    found = TextFiles(uri, "jsonl", server.options).find()
    assert len({file.path for file in found}) == len(found) == 45
    assert {file.hive["day"] for file in found} == set("01")
    folder = folder_at(uri, server.options)
    assert len(folder.folder("day=0").names(".jsonl")) == 23
    folder.remove_all()
    assert folder.is_empty()


def test_without_credentials_google_is_asked_as_anybody_and_not_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client would try to be a machine of Google's, for a quarter of a minute."""

    def none(**options: object) -> None:
        raise DefaultCredentialsError("none")

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr("google.auth.default", none)
    monkeypatch.setattr("time.sleep", pytest.fail)
    assert Store("gs", {}).filesystem.credentials.method == "anon"


def test_a_key_file_of_google_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/key.json")
    with pytest.raises(InputError, match=r"^GOOGLE_APPLICATION_CREDENTIALS: File /no/key\.json was not found"):
        Store("gs", {})


def test_another_account_than_that_in_the_uri_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "abfss://bucket@mine.dfs.core.windows.net/a"
    for name in ("CONNECTION_STRING", "ACCOUNT_NAME", "ACCOUNT_KEY", "SAS_TOKEN"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    assert store_of(uri, {"account_key": "a2V5"}).filesystem.account_url == "https://mine.blob.core.windows.net"
    connection = "AccountName=other;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:1/other"
    with pytest.raises(InputError, match=r"of the account mine, and storage_options\.connection_string of other"):
        store_of(uri, {"connection_string": connection})
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    with pytest.raises(InputError, match=r"of the account mine, and AZURE_STORAGE_CONNECTION_STRING of other"):
        store_of(uri)
    assert store_of("az://bucket/a").filesystem.account_name is None  # the string's


def test_azure_without_an_account_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONNECTION_STRING", "ACCOUNT_NAME"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    with pytest.raises(InputError, match="abfs:// knows no account; set AZURE_STORAGE_CONNECTION_STRING"):
        Store("abfs", {})
