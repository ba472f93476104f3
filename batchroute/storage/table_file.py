"""A table that appears whole when long work ends, `<name>.parquet`, and the files next to it, `<name>.<suffix>`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatch

import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.errors import InputError
from batchroute.storage.local import LocalFolder
from batchroute.storage.objects import is_local, local_path
from batchroute.storage.workdir import work_root


class TableFile:
    """The table exists when the work is done; its metadata hold the fingerprint of that work."""

    def __init__(self, uri: str, key: str) -> None:
        """Args:
            key: the name of the fingerprint in the metadata.

        Raises:
            InputError: the place is a folder, or not a local path.
        """
        if not is_local(uri):
            raise InputError(f"'{uri}': a table like this is written to local disk; give a local path")
        self.output = LocalFolder(local_path(uri))
        self._key = key
        self._folder, self._name = LocalFolder(self.output.path.parent), self.output.path.name
        if self.output.path.is_dir():
            raise InputError(f"the output {self.output} is a folder; name a parquet file")

    def check_apart_from(self, source: str, files: Iterable[str]) -> None:
        """Raises:
        InputError: the table would be one of the input files.
        """
        path, source = str(self.output.path), os.path.abspath(os.path.expanduser(source))
        inside = os.path.isdir(source) and source in map(str, self.output.path.parents)
        if inside or path in files or fnmatch(path, source):
            raise InputError(f"the output {path} would be among the files of the input {source}; name another place")

    def exists(self, suffix: str | None = None) -> bool:
        return self._folder.exists(self._named(suffix))

    def fingerprint(self) -> str | None:
        """The fingerprint of the work that wrote the table; None for any other file."""
        try:
            metadata = pq.read_schema(self.output.path).metadata or {}
        except (pa.ArrowInvalid, OSError):
            return None
        fingerprint = metadata.get(self._key.encode())
        return None if fingerprint is None else fingerprint.decode()

    def put(self, table: pa.Table, fingerprint: str, metadata: dict[str, str], suffix: str | None = None) -> None:
        """Put the table, or with `suffix` a table next to it; create-only."""
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({**metadata, self._key: fingerprint}), sink, compression="zstd")
        self._folder.put_new(self._named(suffix), memoryview(sink.getvalue()))

    def put_text(self, suffix: str, text: str) -> None:
        self._folder.put_new(self._named(suffix), text.encode())

    def read_text(self, suffix: str) -> str:
        """Raises:
        InputError: the file is gone.
        """
        if not self.exists(suffix):
            raise InputError(
                f"{self._folder}/{self._named(suffix)} is gone, though its table is there; start again with --fresh"
            )
        return self._folder.read(self._named(suffix)).decode()

    def remove(self, suffix: str) -> None:
        self._folder.remove(self._named(suffix))

    def discard(self, suffixes: Iterable[str]) -> None:
        """Remove the table, the files next to it, and the work folder.

        Raises:
            InputError: something else wrote the table.
        """
        if self.exists() and self.fingerprint() is None:
            raise InputError(f"the output {self.output} was not written by this command and stays; name another")
        self._folder.remove(self._name)
        for suffix in suffixes:
            self.remove(suffix)
        work_root(self.output).remove_all()

    def _named(self, suffix: str | None) -> str:
        return self._name if suffix is None else f"{self.output.path.stem}.{suffix}"
