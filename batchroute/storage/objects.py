"""The folder that a URI names: on local disk, or in any filesystem of fsspec. Everything is written through it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from batchroute.errors import InputError
from batchroute.storage.folder import Folder
from batchroute.storage.local import LocalFolder
from batchroute.storage.places import in_one_spelling, split_protocol


def is_local(uri: str) -> bool:
    return split_protocol(uri)[0] in (None, "file", "local")


def local_path(uri: str) -> str:
    """The absolute path of a local URI.

    Raises:
        InputError: no disk has such a name.
    """
    if "\0" in uri:
        raise InputError(f"{uri!r} has a null byte, which no name of a file has")
    return os.path.abspath(os.path.expanduser(str(split_protocol(uri)[1])))


def folder_at(uri: str, storage_options: Mapping[str, Any] | None = None, single_writer: bool = False) -> Folder:
    """The folder at `uri`.

    Args:
        storage_options: of the fsspec filesystem; none on local disk.
        single_writer: accept a storage without create-only puts.

    Raises:
        InputError: it names no place, the filesystem is unknown, or its package is not installed.
    """
    if not uri.strip():
        raise InputError("output.uri is empty; name a folder")
    if is_local(uri):
        return LocalFolder(local_path(uri))
    from batchroute.storage.remote import RemoteFolder
    from batchroute.storage.store import store_of

    return RemoteFolder(store_of(uri, storage_options), in_one_spelling(uri.rstrip("/")), single_writer)
