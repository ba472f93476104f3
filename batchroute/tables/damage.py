"""Damage in a parquet file, found when its pages are read: which column and row group hold it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.errors import InputError, StoppedError

_READ_ROWS = 1024


@contextmanager
def damage_named(opened: pq.ParquetFile, path: str, columns: Sequence[str]) -> Iterator[None]:
    """Names what cannot be read; what the file holds is not in the message.

    Raises:
        InputError: pages of one of the columns are damaged, or the file is gone.
        StoppedError: the disk failed.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"input: {path} is gone since the run began") from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise StoppedError(f"input: {path} cannot be read: {os.strerror(error.errno)}; run again") from error
        raise InputError(f"input: {path} is damaged: {_place(opened, columns)}; write the file again") from error


def _place(opened: pq.ParquetFile, columns: Sequence[str]) -> str:
    for group in range(opened.metadata.num_row_groups):
        for column in columns:
            try:
                for _ in opened.iter_batches(_READ_ROWS, [group], [column], use_threads=False):
                    pass
            except (pa.ArrowException, OSError):
                return f"column '{column}' of row group {group} cannot be read"
    return "its pages cannot be read"
