"""Folders on two S3 servers, SeaweedFS and moto; and what only S3 has: versions, keys with `//`, uploads in parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batchroute.errors import InputError
from batchroute.storage.folder import Folder
from batchroute.storage.objects import folder_at
from batchroute.tables.files import Files
from tests.storage.every_folder import EveryFolder
from tests.support.jobs import table
from tests.support.moto import Moto
from tests.support.seaweed import SeaweedFS


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with Moto() as server:
        yield server


def options(server: SeaweedFS | Moto) -> dict[str, str]:
    return {"key": "testkey", "secret": "testsecret", "endpoint_url": server.endpoint}


class TestSeaweedFS(EveryFolder):
    @pytest.fixture
    def folder(self, seaweed: SeaweedFS, tmp_path: Path) -> Folder:
        return folder_at(f"s3://bucket/{tmp_path.name}/a", options(seaweed))


class TestMoto(EveryFolder):
    @pytest.fixture(params=["bucket", "versioned"])
    def folder(self, moto: Moto, tmp_path: Path, request: pytest.FixtureRequest) -> Folder:
        return folder_at(f"s3://{request.param}/{tmp_path.name}/a", options(moto))

    def test_a_large_file_is_put_once_too(self, folder: Folder) -> None:
        """By a multipart upload, whose last request has the condition."""
        content = bytes(51 << 20)
        assert folder.put_new("large", content)
        assert folder.put_new("large", content)  # the same content counts as put
        assert not folder.put_new("large", content[1:])
        assert folder.leftovers(0) == []


def test_what_a_versioned_bucket_keeps_is_not_seen(moto: Moto, tmp_path: Path) -> None:
    folder = folder_at(f"s3://versioned/{tmp_path.name}", options(moto))
    for content in (b"1", b"2"):
        assert folder.put_new("x", content)
        assert folder.read("x") == content
        folder.remove("x")
    assert folder.is_empty()
    kept = moto.filesystem().call_s3("list_object_versions", Bucket="versioned", Prefix=f"{tmp_path.name}/x")
    assert (len(kept["Versions"]), len(kept["DeleteMarkers"])) == (2, 2)


@pytest.mark.parametrize("uri", ["", "/", "/**/*.parquet"])
def test_a_key_with_an_empty_segment_is_read_too(moto: Moto, tmp_path: Path, uri: str) -> None:
    """Folders of such keys have no name, and a search from folder to folder would not come to them."""
    folder = f"bucket/{tmp_path.name}"
    table(3).write_parquet(tmp_path / "a.parquet")
    for key in ("a.parquet", "day//b.parquet"):
        moto.filesystem().put_file(str(tmp_path / "a.parquet"), f"{folder}/{key}")
    found = Files(f"s3://{folder}{uri}", options(moto)).find()
    assert [(file.path, file.rows) for file in found] == [
        (f"s3://{folder}/a.parquet", 3),
        (f"s3://{folder}/day//b.parquet", 3),
    ]


def test_a_key_that_ends_in_a_slash_is_named(moto: Moto, tmp_path: Path) -> None:
    folder = f"bucket/{tmp_path.name}"
    table(3).write_parquet(tmp_path / "a.parquet")
    moto.filesystem().put_file(str(tmp_path / "a.parquet"), f"{folder}/a.parquet")
    moto.filesystem().call_s3("put_object", Bucket="bucket", Key=f"{tmp_path.name}/day/", Body=b"")
    assert len(Files(f"s3://{folder}", options(moto)).find()) == 1
    data = (tmp_path / "a.parquet").read_bytes()
    moto.filesystem().call_s3("put_object", Bucket="bucket", Key=f"{tmp_path.name}/b.parquet/", Body=data)
    with pytest.raises(InputError, match=r"b\.parquet/ ends in a slash"):
        Files(f"s3://{folder}", options(moto)).find()


def test_removing_a_folder_removes_keys_with_an_empty_segment(moto: Moto, tmp_path: Path) -> None:
    folder = folder_at(f"s3://bucket/{tmp_path.name}", options(moto))
    moto.filesystem().pipe_file(f"bucket/{tmp_path.name}/a//b", b"1")
    assert not folder.is_empty()
    folder.remove_all()
    assert folder.is_empty()
    assert moto.filesystem().find(f"bucket/{tmp_path.name}") == []
