"""Reading a committed output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.dataset as ds

from batchroute.errors import InputError
from batchroute.storage import manifest
from batchroute.storage.objects import folder_at, is_local
from batchroute.storage.store import store_of


def read(uri: str, storage_options: Mapping[str, Any] | None = None) -> pl.LazyFrame:
    """See `batchroute.read`."""
    output = folder_at(uri, storage_options)
    committed = manifest.read(output)
    if committed is None:
        raise InputError(f"{output} is not committed: it has no {manifest.MANIFEST}")
    if is_local(uri):
        return pl.scan_parquet([Path(str(output)) / file.path for file in committed.files], hive_partitioning=False)
    store = store_of(uri, storage_options)
    paths = [store.path(f"{output}/{file.path}") for file in committed.files]
    return pl.scan_pyarrow_dataset(ds.dataset(paths, filesystem=store.filesystem, format="parquet"))
