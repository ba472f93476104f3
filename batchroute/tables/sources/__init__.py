"""Where the prompts are: files that are read in place, or a query or table whose rows are fetched once."""

from __future__ import annotations

from batchroute.tables.sources.base import InputSpec, Source
from batchroute.tables.sources.delta import DeltaVersion
from batchroute.tables.sources.iceberg import IcebergSnapshot
from batchroute.tables.sources.rows import FileRows, Query


def source_of(spec: InputSpec) -> Source:
    if spec.warehouse:
        return Query(spec)
    if spec.delta:
        options = {name: str(value) for name, value in spec.storage_options.items()}
        return DeltaVersion(spec.delta, options, spec.version, spec.timestamp, spec.where)
    if spec.iceberg:
        return IcebergSnapshot(spec.iceberg, spec.catalog, spec.version, spec.timestamp, spec.where)
    return FileRows(spec)
