"""The files of a cache: whole and never changed, by model and by the day on which they were put.

    <cache>/days-00030.json                                          a job keeps answers this long
    <cache>/<model>/<YYYY-MM-DD>/<run id>-<shard>-<hash>-<bytes>.parquet

A file is named by its content, so that two runs at once, and a run after a crash, put nothing twice and replace
nothing. Its name tells its size: a reader in a bucket needs no request for that.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batchroute.cache.settings import CacheSpec
from batchroute.storage.folder import Folder
from batchroute.storage.objects import folder_at

KEY = pa.field("key", pa.binary(16))
"""The first column of every file: what only rows with the same prompt share, and the same seed if the model samples."""

Keys = NDArray[np.uint64]
"""Keys as pairs of numbers, shape [rows, 2]."""

_MARK, _MARKS = "days-", ".json"
_PARQUET = ".parquet"


class CacheFiles:
    """
    Args:
        note: is told, in a sentence, of a file that cannot be read and counts as empty.
    """

    def __init__(self, spec: CacheSpec, note: Callable[[str], None] = lambda words: None) -> None:
        """Raises:
        InputError: `cache.uri` names no place.
        """
        # A file is named by its content: a put that replaces one changes nothing.
        self.folder = folder_at(spec.uri, spec.storage_options, single_writer=True)
        self._note = note

    def mark(self, days: int) -> None:
        """Tell `gc` that a job keeps answers for so many days."""
        self.folder.put_new(f"{_MARK}{days:05d}{_MARKS}", b"{}")

    def names(self, model: str, days: int, today: datetime.date) -> list[str]:
        """The files of a model's answers of today and of `days` days before, the newest days first.

        In a bucket one request lists the days, and one each day's first thousand files.
        """
        first = (today - datetime.timedelta(days=days)).isoformat()
        of_model = self.folder.folder(model)
        found = sorted((day for day in of_model.folders() if day >= first and _is_day(day)), reverse=True)
        return [f"{model}/{day}/{name}" for day in found for name in of_model.folder(day).names(_PARQUET)]

    def keys(self, name: str) -> tuple[Keys, int] | None:
        """The keys of a file's rows, and the bytes of its rows in memory; None if it is gone or damaged.

        Two requests in a bucket: the footer, and the column.
        """

        def read() -> tuple[Keys, int]:
            file = pq.ParquetFile(self.folder.parquet(name, _size(name)))
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            column = file.read(columns=[KEY.name], use_threads=False)[KEY.name]
            return pairs_of(column), sum(group.total_byte_size for group in groups)

        found: tuple[Keys, int] | None = self._tried(name, read)
        return found

    def rows(self, name: str) -> pa.Table | None:
        """All rows of a file; None if it is gone or damaged. One request in a bucket."""
        return self._tried(name, lambda: pq.read_table(self.folder.parquet(name), partitioning=None, use_threads=False))

    def put(self, place: str, run_id: str, shard: str, rows: pa.Table) -> None:
        """Put answers that a run has paid for.

        Args:
            place: the model and the day, with a slash between them.

        Raises:
            InputError, StoppedError: as `Folder.put_new`.
        """
        sink = pa.BufferOutputStream()
        texts = [name for name in rows.column_names if name != KEY.name]
        pq.write_table(rows, sink, compression="zstd", use_dictionary=texts, row_group_size=max(1, rows.num_rows))
        data = memoryview(sink.getvalue())
        digest = hashlib.sha256(data).hexdigest()[:16]
        self.folder.put_new(f"{place}/{run_id}-{shard}-{digest}-{len(data)}{_PARQUET}", data)

    def _tried(self, name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except FileNotFoundError:
            # Removed since it was listed.
            return None
        except (pa.ArrowException, OSError, ValueError):
            self._note(f"{self.folder}/{name} is damaged and counts as empty: remove it")
            return None


def marked_days(folder: Folder) -> int | None:
    """For how many days the jobs that share a cache keep answers, at most; None: the folder is no cache."""
    marks = [name.removeprefix(_MARK).removesuffix(_MARKS) for name in folder.names(_MARKS) if name.startswith(_MARK)]
    return max((int(days) for days in marks if days.isdigit()), default=None)


def expired(folder: Folder, days: int, today: datetime.date) -> list[str]:
    """The folders of days that no job reads any more."""
    first = (today - datetime.timedelta(days=days)).isoformat()
    models = [(model, folder.folder(model).folders()) for model in folder.folders()]
    return [f"{model}/{day}" for model, found in models for day in found if _is_day(day) and day < first]


def pairs_of(keys: pa.ChunkedArray) -> Keys:
    """Keys as numbers. None of them is null."""
    column = keys.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], KEY.type)
    raw = np.frombuffer(column.buffers()[1] or b"", np.uint64)
    return raw[2 * column.offset : 2 * (column.offset + len(column))].reshape(-1, 2)


def column_of(keys: Keys) -> pa.Array:
    """Keys as a column of a file."""
    return pa.FixedSizeBinaryArray.from_buffers(KEY.type, len(keys), [None, pa.py_buffer(np.ascontiguousarray(keys))])


def today() -> datetime.date:
    """The day in UTC, which all machines share."""
    return datetime.datetime.now(datetime.UTC).date()


def _is_day(name: str) -> bool:
    try:
        return datetime.date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False


def _size(name: str) -> int:
    return int(name.removesuffix(_PARQUET).rsplit("-", 1)[1])
