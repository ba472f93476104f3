"""Reading a committed output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from batchroute.errors import InputError
from batchroute.storage import manifest
from batchroute.storage.objects import folder_at, is_local
from batchroute.storage.store import store_of

Into = Literal["lazy", "polars", "arrow", "batches"]


def read(uri: str, storage_options: Mapping[str, Any] | None = None, into: Into = "lazy") -> Any:
    """See `batchroute.read`."""
    if into not in get_args(Into):
        raise InputError(f"into is one of {', '.join(get_args(Into))}, not {into!r}")
    output = folder_at(uri, storage_options)
    committed = manifest.read(output)
    if committed is None:
        raise InputError(f"{output} is not committed: it has no {manifest.MANIFEST}")
    paths, filesystem = [f"{output}/{file.path}" for file in committed.files], None
    if not is_local(uri):
        store = store_of(uri, storage_options)
        paths, filesystem = [store.path(path) for path in paths], store.filesystem
    if into == "batches":
        return _batches(paths, filesystem)
    if into == "arrow":
        return pa.concat_tables([pq.read_table(path, filesystem=filesystem, partitioning=None) for path in paths])
    frame = _lazy(paths, filesystem)
    return frame if into == "lazy" else frame.collect()


def _lazy(paths: Sequence[str], filesystem: Any) -> pl.LazyFrame:
    if filesystem is None:
        return pl.scan_parquet([Path(path) for path in paths], hive_partitioning=False)
    return pl.scan_pyarrow_dataset(ds.dataset(paths, filesystem=filesystem, format="parquet"))


def _batches(paths: Sequence[str], filesystem: Any) -> Iterator[pa.RecordBatch]:
    for path in paths:
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            yield from file.iter_batches()
