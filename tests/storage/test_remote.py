"""Folders on fsspec filesystems, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from batchroute.errors import InputError
from batchroute.storage.folder import Folder
from batchroute.storage.objects import folder_at
from batchroute.storage.store import RangeFile, store_of
from tests.storage.every_folder import EveryFolder


class Forgetful(MemoryFileSystem):
    """A filesystem that does not know create-only puts."""

    protocol = "forgetful"
    store: dict[str, Any] = {}  # noqa: RUF012, as in its parent
    pseudo_dirs = [""]  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, **kwargs)


fsspec.register_implementation("forgetful", Forgetful, clobber=True)


@pytest.fixture
def folder() -> Iterator[Folder]:
    yield folder_at("memory://base/a")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


class TestMemory(EveryFolder):
    pass


def test_the_same_content_again_counts_as_put(folder: Folder) -> None:
    # So a put whose answer was lost, and that was tried again, is known to be this one.
    assert folder.put_new("1.json", b"one")
    assert folder.put_new("1.json", b"one")


def test_create_only_puts_are_probed_and_the_probe_is_gone(folder: Folder) -> None:
    assert folder.check_create_only() is None
    assert folder.is_empty()


def test_a_storage_without_create_only_puts_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match=r"has no create-only puts .* set output\.single_writer: true"):
        folder_at("forgetful://base/a").check_create_only()


def test_a_single_writer_may_do_without_and_is_warned() -> None:
    folder = folder_at("forgetful://base/b", single_writer=True)
    warning = folder.check_create_only()
    assert warning is not None
    assert "a second run at the same time would damage" in warning
    assert folder.put_new("x", b"1")
    assert not folder.put_new("x", b"2")
    assert folder.read("x") == b"1"


def test_a_single_writer_uses_create_only_puts_where_there_are_some(folder: Folder) -> None:
    other = folder_at(folder.uri, single_writer=True)
    assert other.check_create_only() is None


def test_ranges_are_read_as_asked(folder: Folder) -> None:
    folder.put_new("x", bytes(range(100)))
    file = RangeFile(store_of("memory://"), "memory://base/a/x", 100)
    assert file.read(3) == bytes([0, 1, 2])
    file.seek(-2, 2)
    assert file.read() == bytes([98, 99])
    assert file.read(5) == b""
    file.seek(50)
    assert (file.read(1), file.tell()) == (b"2", 51)
    with pytest.raises(InputError, match="it was changed while it was read"):
        RangeFile(store_of("memory://"), "memory://base/a/x", 200).read()
