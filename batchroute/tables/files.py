"""The files of an input, local or remote: their footers and schemas, and recognizing a change."""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from batchroute.errors import InputError
from batchroute.storage.objects import is_local, local_path
from batchroute.storage.places import in_one_spelling
from batchroute.tables.footers import wide_columns
from batchroute.tables.listing import Listing, list_local, list_remote
from batchroute.tables.small_files import MOST_BYTES, SmallFile, small_files_of

if TYPE_CHECKING:
    from batchroute.storage.store import RangeFile, Store

_AT_ONCE = 16
_FOOTER_BYTES_KEPT = 32 << 20
_VERSIONS = ("ETag", "etag", "md5Hash", "blob_id")
_TIMES = ("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created")


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
    content: str | None = None
    """A digest of the file, or of its footer, by which a copy of it is known; no part of the identity."""

    def identity(self) -> dict[str, Any]:
        return self.model_dump(include={"path", "size", "mtime_ns", "etag", "rows"}, exclude_none=True)

    def record(self) -> dict[str, Any]:
        """The identity, and what a copy is known by."""
        return self.model_dump(include={"path", "size", "mtime_ns", "etag", "rows", "content"}, exclude_none=True)

    def as_it_was(self, then: InputFile) -> InputFile:
        """This file with the version of the one that it is a copy of."""
        return self.model_copy(update={"mtime_ns": then.mtime_ns, "etag": then.etag, "content": then.content})


class Files:
    """Where the input is read from. Footers are read once, and small remote files whole."""

    def __init__(self, uri: str = "", storage_options: Mapping[str, Any] | None = None) -> None:
        """Raises:
        InputError: the filesystem is unknown, or its package is not installed.
        """
        self._store: Store | None = None if is_local(uri) else _store_of(uri, storage_options)
        self._uri = local_path(uri) if self._store is None else in_one_spelling(uri.rstrip("/"))
        self._small = None if self._store is None else small_files_of(self._store)
        self._lock = Lock()
        self._footers: OrderedDict[str, pq.FileMetaData] = OrderedDict()
        self._footer_bytes = 0
        self._schemas: dict[str, pa.Schema] = {}
        self._distinct: dict[bytes, pa.Schema] = {}
        self._copies: set[tuple[str, str]] = set()

    @property
    def is_local(self) -> bool:
        return self._store is None

    def find(self) -> list[InputFile]:
        """The files of the input, in the order of their paths, with row counts from their footers.

        Raises:
            InputError: nothing matches, or something cannot be read.
        """
        listing = list_local(self._uri) if self._store is None else list_remote(self._store, self._uri)
        if self._store is None:
            return [self._inspect(path, listing) for path in listing.paths]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda path: self._inspect(path, listing), listing.paths))

    def seal(self, files: Sequence[InputFile]) -> list[InputFile]:
        """The files with a digest of their contents, by which a copy is known.

        Raises:
            InputError: a file is not what it was when it was found.
        """
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            return list(pool.map(self._sealed, files))

    def schemas(self, files: list[InputFile]) -> list[pa.Schema]:
        if self._small is not None:
            self._small.expect([self._small_file(file) for file in files if file.size <= MOST_BYTES])
        if self._store is None or all(file.path in self._schemas for file in files):
            return [self._schema(file) for file in files]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._schema, files))

    def footer(self, file: InputFile) -> pq.FileMetaData:
        """Raises:
        InputError: it is not a parquet file.
        """
        with self._lock:
            known = self._footers.get(file.path)
        if known is not None:
            return known
        try:
            footer = pq.read_metadata(self.open(file))
        except UnicodeDecodeError as error:
            raise InputError(f"input: {file.path} has a column whose name is not UTF-8; rename it") from error
        except pa.ArrowNotImplementedError as error:
            named = ", ".join(f"'{name}'" for name in wide_columns(self.open(file))) or "a column"
            raise InputError(
                f"input: {file.path} has {named} of a type that cannot be read ({error}); write it as a decimal or text"
            ) from error
        except (pa.ArrowException, OSError) as error:
            reason = "permission denied" if isinstance(error, PermissionError) else "not a readable parquet file"
            raise InputError(f"input: {file.path} is {reason}") from error
        with self._lock:
            self._footers[file.path] = footer
            self._footer_bytes += footer.serialized_size
            while self._footer_bytes > _FOOTER_BYTES_KEPT and len(self._footers) > 1:
                self._footer_bytes -= self._footers.popitem(last=False)[1].serialized_size
        return footer

    def open(self, file: InputFile) -> str | io.BufferedIOBase | RangeFile | pa.BufferReader:
        """What pyarrow reads the file from.

        Raises:
            InputError: a small remote file is not what it was when the run began.
        """
        if self._store is None:
            return file.path
        if file.size <= MOST_BYTES:
            return pa.BufferReader(self._whole(file))
        return self._store.open(file.path, file.size)

    def check_unchanged(self, file: InputFile) -> None:
        """Raises:
        InputError: the file is neither what it was when the run began, nor a copy of that.
        """
        if self._store is not None and file.size <= MOST_BYTES and file.content is not None:
            self._whole(file)
            return
        try:
            now = self._version(file.path)
        except FileNotFoundError as error:
            raise _gone(file) from error
        if now != _version_of(file) and not self._is_copy(file, now):
            raise _changed(file)

    def is_same(self, then: InputFile, now: InputFile) -> bool:
        """Whether a file that was just found is the one of an earlier attempt, or a copy of it."""
        if (then.path, then.size, then.rows) != (now.path, now.size, now.rows):
            return False
        return _version_of(then) == _version_of(now) or self._is_copy(then, _version_of(now))

    def _is_copy(self, file: InputFile, now: dict[str, Any]) -> bool:
        if file.content is None or now["size"] != file.size:
            return False
        key = (file.path, f"{now['mtime_ns']} {now['etag']} {file.content}")
        if key not in self._copies:
            try:
                if self._content(file) != file.content:
                    return False
            except pa.ArrowException:
                return False  # it is no parquet any more
            self._copies.add(key)
        return True

    def _sealed(self, file: InputFile) -> InputFile:
        if file.content is not None:
            return file
        sealed = file.model_copy(update={"content": self._content(file)})
        if self._version(file.path) != _version_of(file):
            raise _changed(file)
        return sealed

    def _content(self, file: InputFile) -> str:
        """Of a large remote file the footer stands for all, since the whole would have to travel."""
        if self._store is None:
            with open(file.path, "rb") as opened:
                return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"
        if file.size <= MOST_BYTES:
            return _digest(self._read(file))
        return _footer_digest(pq.read_metadata(self._store.open(file.path, file.size)))

    def _read(self, file: InputFile) -> bytes:
        assert self._small is not None
        try:
            # No range of an empty file can be asked for.
            data = self._small.read(self._small_file(file)) if file.size else b""
        except FileNotFoundError as error:
            raise _gone(file) from error
        if len(data) != file.size:
            raise _changed(file)
        return data

    def _small_file(self, file: InputFile) -> SmallFile:
        # A store without versions: what was read for another purpose may have changed.
        return SmallFile(file.path, file.size, file.etag or f"{id(self)}")

    def _whole(self, file: InputFile) -> bytes:
        data = self._read(file)
        if file.content is not None and _digest(data) != file.content:
            raise _changed(file)
        return data

    def _schema(self, file: InputFile) -> pa.Schema:
        if file.path not in self._schemas:
            # The footer itself knows no types that other writers than Arrow's mark, such as UUIDs.
            footer = self.footer(file)
            place = file.path if self._store is None else self._store.open(file.path, file.size)
            schema = pq.ParquetFile(place, metadata=footer).schema_arrow
            _check_names(schema.names, file)
            for field in schema:
                _check_fields(field.type, field.name, file)
            self._schemas[file.path] = self._distinct.setdefault(schema.serialize().to_pybytes(), schema)
        return self._schemas[file.path]

    def _inspect(self, path: str, listing: Listing) -> InputFile:
        try:
            return self._inspected(path, listing)
        except FileNotFoundError as error:
            raise InputError(f"input: {path} went away while the input was listed; run again") from error

    def _inspected(self, path: str, listing: Listing) -> InputFile:
        file = InputFile(path=path, rows=0, **self._version(path, listing.entries.get(path)))
        metadata, content = self.footer(file), None
        if self._store is not None:
            self._schema(file)
            content = _digest(self._read(file)) if file.size <= MOST_BYTES else _footer_digest(metadata)
        groups = range(metadata.num_row_groups)
        return file.model_copy(
            update={
                "rows": metadata.num_rows,
                "bytes": sum(metadata.row_group(group).total_byte_size for group in groups),
                "hive": listing.hive(path),
                "content": content,
            }
        )

    def _version(self, path: str, entry: dict[str, Any] | None = None) -> dict[str, Any]:
        """Size and version of a file: by the entry of a listing, where that has the version."""
        if self._store is None:
            status = os.stat(path)
            return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "etag": None}
        info = entry if entry is not None and any(entry.get(key) for key in _VERSIONS) else self._store.info(path)
        etag = next((str(info[key]) for key in (*_VERSIONS, *_TIMES) if info.get(key)), None)
        return {"size": info["size"], "mtime_ns": None, "etag": etag}


def _version_of(file: InputFile) -> dict[str, Any]:
    return {"size": file.size, "mtime_ns": file.mtime_ns, "etag": file.etag}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _footer_digest(footer: pq.FileMetaData) -> str:
    written = io.BytesIO()
    footer.write_metadata_file(written)
    return f"footer-{_digest(written.getvalue())}"


def _check_names(names: list[str], file: InputFile) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"input: {file.path} has two columns '{twice}'; rename one of them")


def _check_fields(kind: pa.DataType, place: str, file: InputFile) -> None:
    names = [kind.field(number).name for number in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"input: {file.path} has two fields '{twice}' in '{place}'; rename one of them")
    for number in range(kind.num_fields):
        _check_fields(kind.field(number).type, place, file)


def _gone(file: InputFile) -> InputError:
    return InputError(f"input: {file.path} is gone since the run began")


def _store_of(uri: str, storage_options: Mapping[str, Any] | None) -> Store:
    # Whose input is on disk is spared fsspec and its clients.
    from batchroute.storage.store import store_of

    return store_of(uri, storage_options)


def _changed(file: InputFile) -> InputError:
    return InputError(f"input: {file.path} has changed since the run began; put it back, or start with --fresh")
