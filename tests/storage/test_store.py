"""What a URI names, how long a storage is waited for, and storages that lack a right or a feature."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from batchroute.errors import InputError, StoppedError
from batchroute.storage.local import LocalFolder
from batchroute.storage.objects import folder_at
from batchroute.storage.store import Store, store_of
from batchroute.tables.files import Files


class Undeletable(MemoryFileSystem):
    """A bucket whose role may write and not delete."""

    protocol = "undeletable"
    store: dict[str, Any] = {}  # noqa: RUF012, as in its parent
    pseudo_dirs = [""]  # noqa: RUF012

    def rm_file(self, path: str) -> None:
        raise PermissionError("AccessDenied")


class Account(MemoryFileSystem):
    """As Azure's: the account stands in the URI."""

    protocol = ("account", "accounts")

    def __init__(self, account_name: str, **options: Any) -> None:
        super().__init__(**options)
        self.account_name = account_name

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        container, _, rest = path.partition("://")[2].partition("/")
        return f"/{container.partition('@')[0]}/{rest}".rstrip("/") if "://" in path else super()._strip_protocol(path)

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        return {"account_name": path.partition("@")[2].partition(".")[0]} if "@" in path else {}


fsspec.register_implementation("undeletable", Undeletable, clobber=True)
fsspec.register_implementation("accounts", Account, clobber=True)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    MemoryFileSystem.store.clear()
    Undeletable.store.clear()


def test_a_role_that_may_not_delete_can_write_its_output() -> None:
    folder = folder_at("undeletable://base/a")
    for _ in range(3):
        assert folder.check_create_only() is None
        folder.check_writable()
    assert folder.names("") == []
    assert len(Undeletable.store) == 1


def test_probes_at_once_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_at("memory://base/a")
    info = Store.info

    def removed_meanwhile(store: Store, uri: str) -> dict[str, Any]:
        MemoryFileSystem.store.clear()
        return info(store, uri)

    monkeypatch.setattr(Store, "info", removed_meanwhile)
    assert folder.check_create_only() is None


def test_the_account_in_a_uri_is_used() -> None:
    uri = "accounts://box@team.example.net/in"
    assert store_of(uri).filesystem.account_name == "team"
    assert store_of(uri, {"account_name": "other"}).filesystem.account_name == "other"
    assert folder_at(uri).put_new("a", b"1")
    assert MemoryFileSystem.store["/box/in/a"].getvalue() == b"1"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("simplecache::s3://bucket/a", "chains filesystems, which is not supported"),
        ("zip://a.parquet::/tmp/a.zip", "chains filesystems, which is not supported"),
        ("hdfs://node:8020/a", "hdfs:// cannot be used on this machine"),
        ("ftp://127.0.0.1:1/a", "ftp:// cannot be used on this machine"),
        ("s3://", "names no bucket"),
        ("/tmp/a\0b", "has a null byte"),
    ],
)
@pytest.mark.parametrize("opened", [Files, folder_at])
def test_a_place_that_cannot_be_used_is_a_sentence(uri: str, message: str, opened: Any) -> None:
    with pytest.raises(InputError, match=message):
        opened(uri)


def test_an_output_without_a_place_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"output\.uri is empty"):
        folder_at("")


def test_a_refused_connection_is_told_within_the_patience() -> None:
    tries: list[float] = []

    def refuse(filesystem: Any) -> None:
        tries.append(time.monotonic())
        raise ConnectionRefusedError

    begun = time.monotonic()
    with pytest.raises(StoppedError, match="does not answer"):
        Store("memory", {}, first_patience=1.0).call("read", "memory://a", refuse)
    assert 0.7 < time.monotonic() - begun < 1.0
    assert len(tries) > 3


class TestWithoutHardLinks:
    @pytest.fixture(autouse=True, params=[errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
    def no_links(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        def link(*_: Any) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(os, "link", link)

    def test_a_put_is_whole_and_create_only(self, tmp_path: Path) -> None:
        folder = LocalFolder(tmp_path)
        assert folder.put_new("a", b"first")
        assert not folder.put_new("a", b"second")
        assert folder.read("a") == b"first"
        assert os.listdir(tmp_path) == ["a"]

    def test_a_disk_without_such_a_rename_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
        with pytest.raises(InputError, match="neither hard links nor a rename that never overwrites"):
            LocalFolder(tmp_path).put_new("a", b"first")
        assert os.listdir(tmp_path) == []
