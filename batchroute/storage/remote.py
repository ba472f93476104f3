"""Folders on S3, and on any other filesystem that fsspec knows."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.storage.folder import Folder
from batchroute.storage.store import RangeFile, Store

_READS_AT_ONCE = 16
_WILDCARDS = frozenset("*?[")
_PROBE = ".probe-"
# One key for all probes: who may not delete leaves one behind. Two probes at once remove each other's, so a few tries.
_PROBE_KEY, _PROBES = f"{_PROBE}create-only", 10


class RemoteFolder(Folder):
    """A put is one conditional request (S3: `If-None-Match: *`), or a multipart upload that ends with one."""

    reads_ahead = 4

    def __init__(self, store: Store, uri: str, single_writer: bool = False) -> None:
        self.uri = uri
        self._store = store
        self._single_writer = single_writer
        self._create_only = not single_writer

    def folder(self, name: str) -> RemoteFolder:
        return self._at(f"{self.uri}/{name}")

    def beside(self, suffix: str) -> RemoteFolder:
        return self._at(self.uri + suffix)

    def put_new(self, name: str, data: bytes | memoryview, sync_folder: bool = True) -> bool:
        uri, content = f"{self.uri}/{name}", bytes(data)
        try:
            self._store.call("write", uri, lambda fs: self._create(fs, self._store.path(uri), content))
        except FileNotFoundError as error:
            raise InputError(f"cannot write {uri}: the bucket does not exist; create it") from error
        except FileExistsError:
            pass
        else:
            return True
        # A first try of this put may have succeeded although its answer was lost. Asked outside the `except`: an error
        # of these requests must not carry the refused put's status as its context.
        return self._holds(uri, content)

    def check_create_only(self) -> str | None:
        strict = self._at(self.uri)
        strict._create_only = True
        try:
            kept = not all(strict._replaces() for _ in range(_PROBES))
        except InputError:
            # A storage without conditional puts may refuse one; any other fault shows in a plain put too.
            self._plain(_PROBE_KEY)
            kept = False
        self._remove_probe()
        if kept:
            self._create_only = True
            return None
        missing = f"the storage of {self.uri} has no create-only puts (If-None-Match)"
        if self._single_writer:
            return f"{missing}: a second run at the same time would damage this one's output"
        raise InputError(
            f"{missing}, which keep two runs at once apart; use a storage that has them, or, when only one run at a "
            "time can write there, set output.single_writer: true"
        )

    def check_writable(self) -> None:
        self._plain(_PROBE_KEY)
        self._remove_probe()

    def read(self, name: str) -> bytes:
        return self._store.read(f"{self.uri}/{name}")

    def read_all(self, names: list[str]) -> list[bytes]:
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            return list(pool.map(self.read, names))

    def parquet(self, name: str, size: int | None = None) -> Any:
        if size is None:
            return pa.BufferReader(self.read(name))
        return pa.PythonFile(RangeFile(self._store, f"{self.uri}/{name}", size), mode="r")

    def exists(self, name: str = "") -> bool:
        try:
            self._store.info(f"{self.uri}/{name}" if name else self.uri)
        except FileNotFoundError:
            return False
        return True

    def is_file(self) -> bool:
        try:
            return bool(self._store.info(self.uri)["type"] == "file")
        except FileNotFoundError:
            return False

    def names(self, suffix: str) -> list[str]:
        return [name for name in self._list("file") if name.endswith(suffix) and not name.startswith(_PROBE)]

    def folders(self) -> list[str]:
        return self._list("directory")

    def is_empty(self) -> bool:
        return not self._store.files(self.uri)

    def leftovers(self, older_than: float) -> list[str]:
        return [f"upload {self._store.uri(f'{bucket}/{key}')}" for bucket, key, _ in self._uploads(older_than)]

    def remove_leftovers(self, older_than: float) -> None:
        for bucket, key, upload in self._uploads(older_than):
            request = {"Bucket": bucket, "Key": key, "UploadId": upload}
            self._store.call(
                "remove",
                self.uri,
                lambda fs: fs.call_s3("abort_multipart_upload", **request),  # noqa: B023, called at once
            )

    def age(self, name: str) -> float:
        info = self._store.info(f"{self.uri}/{name}")
        put = info.get("LastModified") or info.get("updated") or info.get("last_modified") or info.get("created")
        if isinstance(put, str):
            put = datetime.datetime.fromisoformat(put)
        return time.time() - put.timestamp() if isinstance(put, datetime.datetime) else float("inf")

    def remove(self, name: str) -> None:
        uri = f"{self.uri}/{name}"
        with contextlib.suppress(FileNotFoundError):
            self._store.call("remove", uri, lambda fs: fs.rm_file(self._store.path(uri)))

    def remove_all(self) -> None:
        paths = [self._store.path(uri) for uri in self._store.files(self.uri)]
        # `rm` removes many for one request, but takes these names for patterns.
        patterns = [path for path in paths if not _WILDCARDS.isdisjoint(path)]
        for path in patterns:
            with contextlib.suppress(FileNotFoundError):
                self._store.call("remove", self.uri, lambda fs: fs.rm_file(path))  # noqa: B023, called at once
        if names := [path for path in paths if _WILDCARDS.isdisjoint(path)]:
            with contextlib.suppress(FileNotFoundError):
                self._store.call("remove", self.uri, lambda fs: fs.rm(names))

    def _at(self, uri: str) -> RemoteFolder:
        other = RemoteFolder(self._store, uri, self._single_writer)
        other._create_only = self._create_only
        return other

    def _create(self, fs: Any, path: str, content: bytes) -> None:
        if self._create_only:
            fs.pipe_file(path, content, mode="create")
        elif fs.exists(path):
            raise FileExistsError(path)
        else:
            fs.pipe_file(path, content)

    def _plain(self, name: str) -> None:
        uri = f"{self.uri}/{name}"
        try:
            self._store.call("write", uri, lambda fs: fs.pipe_file(self._store.path(uri), b"0"))
        except FileNotFoundError as error:
            raise InputError(f"cannot write {uri}: the bucket does not exist; create it") from error

    def _replaces(self) -> bool:
        """Whether a create-only put of the probe succeeds."""
        try:
            return self.put_new(_PROBE_KEY, uuid.uuid4().bytes)
        except FileNotFoundError:
            # The put was refused, and the probe in its way was removed before it could be compared.
            return False

    def _remove_probe(self) -> None:
        with contextlib.suppress(InputError):  # a right that a run can do without
            self.remove(_PROBE_KEY)

    def _holds(self, uri: str, content: bytes) -> bool:
        if self._store.info(uri)["size"] != len(content):
            return False
        return hashlib.sha256(self._store.read(uri)).digest() == hashlib.sha256(content).digest()

    def _list(self, kind: str) -> list[str]:
        paths = [entry["name"] for entry in self._store.entries(self.uri) if entry["type"] == kind]
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def _uploads(self, older_than: float) -> list[tuple[str, str, str]]:
        """Bucket, key and id of the unfinished multipart uploads under this folder."""
        if self._store.protocol != "s3":
            return []
        bucket, _, prefix = self._store.path(self.uri).partition("/")
        answer = self._store.call(
            "list", self.uri, lambda fs: fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix + "/")
        )
        return [
            (bucket, upload["Key"], upload["UploadId"])
            for upload in answer.get("Uploads") or []
            if time.time() - upload["Initiated"].timestamp() >= older_than
        ]
