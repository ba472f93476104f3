"""The files of an input, local or remote: finding them, and recognizing a change."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import glob_translate
from pydantic import BaseModel, ConfigDict

from batchroute.errors import InputError
from batchroute.storage.objects import is_local, local_path
from batchroute.storage.store import RangeFile, Store, store_of

_DELTA_LOG = "_delta_log"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_REQUESTS_AT_ONCE = 16
_FOOTERS_KEPT = 256


class InputFile(BaseModel):
    """One file of the input, as it was when the run began."""

    model_config = ConfigDict(frozen=True)

    path: str
    """Absolute, or a URI."""
    size: int
    mtime_ns: int | None = None
    etag: str | None = None
    """A remote file's version: an etag, else the time of the last change."""
    rows: int
    bytes: int = 0
    """Of all columns, before compression."""
    hive: dict[str, str | None] = {}

    def identity(self) -> dict[str, Any]:
        return self.model_dump(include={"path", "size", "mtime_ns", "etag", "rows"}, exclude_none=True)


class Files:
    """Where the input is read from. Footers are read once."""

    def __init__(self, uri: str = "", storage_options: Mapping[str, Any] | None = None) -> None:
        """Raises:
        InputError: the filesystem is unknown, or its package is not installed.
        """
        self._store: Store | None = None if is_local(uri) else store_of(uri, storage_options)
        self._uri = local_path(uri) if self._store is None else uri.rstrip("/")
        self._footers: dict[str, pq.FileMetaData] = {}

    @property
    def is_local(self) -> bool:
        return self._store is None

    def find(self) -> list[InputFile]:
        """The files of the input, in the order of their paths, with row counts from their footers.

        Raises:
            InputError: nothing matches, or a file is no parquet.
        """
        base, paths, none = self._local() if self._store is None else self._remote(self._store)
        visible = [name for name in sorted(paths) if not _hidden(os.path.relpath(name, base))]
        if not visible:
            raise InputError(f"input.uri: {none} {self._uri}")
        if self._store is None:
            return [self._inspect(name, base) for name in visible]
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            return list(pool.map(lambda name: self._inspect(name, base), visible))

    def schemas(self, files: list[InputFile]) -> list[pa.Schema]:
        # The footer itself knows no types that other writers than Arrow's mark, such as UUIDs.
        return [pq.ParquetFile(self.open(file), metadata=self.footer(file)).schema_arrow for file in files]

    def footer(self, file: InputFile) -> pq.FileMetaData:
        """Raises:
        InputError: it is not a parquet file.
        """
        if file.path not in self._footers:
            try:
                footer = pq.read_metadata(self.open(file))
            except (pa.ArrowInvalid, OSError) as error:
                reason = "permission denied" if isinstance(error, PermissionError) else "not a readable parquet file"
                raise InputError(f"input: {file.path} is {reason}") from error
            if len(self._footers) >= _FOOTERS_KEPT:
                self._footers.clear()
            self._footers[file.path] = footer
        return self._footers[file.path]

    def open(self, file: InputFile) -> str | RangeFile:
        """What pyarrow reads the file from."""
        return file.path if self._store is None else RangeFile(self._store, file.path, file.size)

    def check_unchanged(self, file: InputFile) -> None:
        """Raises:
        InputError: the file is not what it was when the run began.
        """
        try:
            now = self._identity(file.path)
        except FileNotFoundError as error:
            raise InputError(f"input: {file.path} is gone since the run began") from error
        if now != {"size": file.size, "mtime_ns": file.mtime_ns, "etag": file.etag}:
            raise InputError(f"input: {file.path} has changed since the run began; put it back, or start with --fresh")

    def _inspect(self, path: str, base: str) -> InputFile:
        file = InputFile(path=path, rows=0, **self._identity(path))
        metadata = self.footer(file)
        folders = PurePosixPath(os.path.relpath(path, base)).parts[:-1]
        pairs = dict(part.split("=", 1) for part in folders if "=" in part)
        groups = range(metadata.num_row_groups)
        return file.model_copy(
            update={
                "rows": metadata.num_rows,
                "bytes": sum(metadata.row_group(group).total_byte_size for group in groups),
                "hive": {key: None if value == _HIVE_NULL else unquote(value) for key, value in pairs.items()},
            }
        )

    def _identity(self, path: str) -> dict[str, Any]:
        if self._store is None:
            status = os.stat(path)
            return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "etag": None}
        info = self._store.info(path)
        keys = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
        etag = next((str(info[key]) for key in keys if info.get(key)), None)
        return {"size": info["size"], "mtime_ns": None, "etag": etag}

    def _local(self) -> tuple[str, list[str], str]:
        """The folder at the root of hive partitions, the files, and the words for an error when there are none."""
        path, none = self._uri, "no such file:"
        if _is_glob(path) and not os.path.exists(path):
            base = str(Path(*itertools.takewhile(lambda part: not _is_glob(part), Path(path).parts)))
            paths, none = glob.glob(path, recursive=True, include_hidden=True), "no file matches"
        elif os.path.isdir(path):
            paths = glob.glob(f"{glob.escape(path)}/**/*.parquet", recursive=True, include_hidden=True)
            base, none = path, "no parquet file in"
        else:
            base, paths = path, [path]
        if os.path.isdir(os.path.join(base, _DELTA_LOG)):
            self._refuse_delta()
        return base, [name for name in paths if os.path.isfile(name)], none

    def _remote(self, store: Store) -> tuple[str, list[str], str]:
        if not _is_glob(self._uri):
            if self._is_file(store):
                return self._uri, [self._uri], ""
            uris = store.files(self._uri)
            if any(f"/{_DELTA_LOG}/" in uri for uri in uris):
                self._refuse_delta()
            return self._uri, [uri for uri in uris if uri.endswith(".parquet")], "no parquet file in"
        base = "/".join(itertools.takewhile(lambda part: not _is_glob(part), self._uri.split("/")))
        wanted = re.compile(glob_translate(store.path(self._uri)))
        return base, [uri for uri in store.files(base) if wanted.match(store.path(uri))], "no file matches"

    def _refuse_delta(self) -> NoReturn:
        raise InputError(
            f"input.uri: {self._uri} is a Delta table, whose files are not all of one version; name it as input.delta"
        )

    def _is_file(self, store: Store) -> bool:
        try:
            return bool(store.info(self._uri)["type"] == "file")
        except FileNotFoundError:
            return False


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def _hidden(relative: str) -> bool:
    # Spark's _SUCCESS and _temporary, editors' and our own dot-files.
    return any(part.startswith(("_", ".")) and "=" not in part and part != "." for part in Path(relative).parts)
