"""Files of JSON lines and of CSV, local or remote, compressed or not."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, cast

import pyarrow as pa

from batchroute.tables.files import Files, InputFile
from batchroute.tables.listing import list_local, list_remote
from batchroute.tables.small_files import MOST_BYTES

TextFormat = Literal["jsonl", "csv"]

ENDINGS: dict[TextFormat, tuple[str, ...]] = {"jsonl": (".jsonl", ".ndjson"), "csv": (".csv", ".tsv")}
TYPES = {"boolean": pa.bool_(), "int64": pa.int64(), "float64": pa.float64(), "text": pa.string(), "JSON": pa.string()}
"""What a column can be. JSON is text: the values of a column in which some are lists or objects."""

Opening = Callable[[], AbstractContextManager[pa.NativeFile]]
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


def text_format(uri: str) -> TextFormat | None:
    """By the ending of a path or a glob."""
    name = without_compression(uri)
    return next((form for form, endings in ENDINGS.items() if name.endswith(endings)), None)


def without_compression(path: str) -> str:
    """The path in lower case, without the ending of a compression."""
    name, ending = os.path.splitext(path.lower())
    return name if ending in _COMPRESSIONS else path.lower()


class TextFiles(Files):
    """The files of an input that are not parquet: without footers, so that their rows are not known."""

    def __init__(self, uri: str, form: TextFormat, storage_options: Mapping[str, Any] | None = None) -> None:
        """Raises:
        InputError: as `Files`.
        """
        super().__init__(uri, storage_options)
        self.form = form

    def find(self) -> list[InputFile]:
        """Raises:
        InputError: nothing matches, or something cannot be read.
        """
        if self._store is None:
            inside = os.path.isdir(self._uri)
            listing = list_local(f"{glob.escape(self._uri)}/**" if inside else self._uri)
        else:
            inside = self._store.kind(self._uri) == "directory"
            listing = list_remote(self._store, f"{self._uri}/**" if inside else self._uri)
        endings = ENDINGS[self.form]
        paths = [path for path in listing.paths if not inside or without_compression(path).endswith(endings)]
        return [
            InputFile(path=path, rows=0, hive=listing.hive(path), **self._version(path, listing.entries.get(path)))
            for path in paths
        ]

    def stream(self, file: InputFile) -> AbstractContextManager[pa.NativeFile]:
        """The bytes of a file, decompressed by its ending."""
        source = self.open(file)
        stream = pa.OSFile(source) if isinstance(source, str) else source
        if not isinstance(stream, pa.NativeFile):
            stream = pa.BufferedInputStream(pa.PythonFile(stream, mode="r"), MOST_BYTES)
        compression = _COMPRESSIONS.get(os.path.splitext(file.path.lower())[1])
        opened = stream if compression is None else pa.CompressedInputStream(stream, compression)
        return cast(AbstractContextManager[pa.NativeFile], opened)

    def _content(self, file: InputFile) -> str:
        if self._store is None or file.size <= MOST_BYTES:
            return super()._content(file)
        # Without a footer that stands for all of it, a large remote file is known by its version alone.
        return f"version-{self._version(file.path)['etag']}"
