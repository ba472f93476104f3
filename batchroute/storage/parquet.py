"""Parquet files that a run writes: compression, row groups, and the unit's facts in the metadata."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.storage.folder import Folder
from batchroute.storage.receipts import Facts

_FACTS = b"batchroute.unit"

# Files of the work folder are read once or twice: level 1. For the output, level 3 makes files 29 % smaller and takes
# 1.4 times as long; `tests/benchmarks/parquet_settings.py` measures more settings.
WORK_PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 1}

OUTPUT_PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 3}

_ROW_GROUP_ROWS, _ROW_GROUP_BYTES = 1 << 16, 32 << 20
# pyarrow looks at the size of a page after this many values, and a page comes into memory whole.
_VALUES_AT_A_TIME, _PAGE_BYTES = 1024, 1 << 20
_LONG_TEXT_BYTES = 64


def read_facts(source: object) -> Facts | None:
    """The facts in a parquet file, given as a path or a buffer; None for a file that no run wrote."""
    try:
        metadata = pq.read_metadata(source).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return None
    return Facts.model_validate_json(metadata[_FACTS]) if _FACTS in metadata else None


def is_ours(folder: Folder, name: str) -> bool:
    """Whether a run of batchroute wrote this parquet file."""
    return read_facts(folder.parquet(name)) is not None


def parquet_bytes(
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    facts: Facts,
    finish: Callable[[Facts], Facts] | None = None,
    left_out: Collection[str] = (),
    settings: Mapping[str, Any] = WORK_PARQUET,
) -> tuple[memoryview, Facts]:
    """A compressed parquet file in memory, and its final facts; its metadata hold them without those `left_out`."""
    sink = pa.BufferOutputStream()
    groups = _row_groups(batches)
    first = next(groups, [])
    size, dictionaries = _values_at_a_time(first), _dictionaries(schema, first)
    with pq.ParquetWriter(sink, schema, write_batch_size=size, use_dictionary=dictionaries, **settings) as writer:
        while first:
            writer.write_table(pa.Table.from_batches(first))
            first = next(groups, [])
        facts = facts if finish is None else finish(facts)
        writer.add_key_value_metadata({_FACTS: facts.model_dump_json(exclude=set(left_out)).encode()})
    return memoryview(sink.getvalue()), facts


def _values_at_a_time(group: list[pa.RecordBatch]) -> int:
    """How many values to write before a page may end: fewer where rows are longer than a kilobyte."""
    rows, size = sum(batch.num_rows for batch in group), sum(batch.nbytes for batch in group)
    return int(max(1, min(_VALUES_AT_A_TIME, _PAGE_BYTES * rows // max(1, size))))


def _dictionaries(schema: pa.Schema, group: list[pa.RecordBatch]) -> list[str] | bool:
    """The columns whose values a dictionary may hold: not long texts, of which few are alike.

    Without theirs, files are read a quarter faster, and no larger.
    """
    if any(pa.types.is_nested(field.type) for field in schema):
        return True
    rows = sum(batch.num_rows for batch in group)
    return [
        field.name
        for number, field in enumerate(schema)
        if not (pa.types.is_string(field.type) or pa.types.is_large_string(field.type))
        or sum(batch.column(number).nbytes for batch in group) < _LONG_TEXT_BYTES * rows
    ]


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Gathers batches to row groups that are large enough to read fast and small enough for memory."""
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        group.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _ROW_GROUP_ROWS or size >= _ROW_GROUP_BYTES:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group
