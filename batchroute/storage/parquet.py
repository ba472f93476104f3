"""Parquet files that a run writes: compression, row groups, and the unit's facts in the metadata."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.storage.folder import Folder
from batchroute.storage.receipts import Facts

_FACTS = b"batchroute.unit"

Settings = Callable[[pa.Table], Mapping[str, Any]]
"""Keyword arguments of `pq.ParquetWriter`, for a file that begins with these rows."""

_ROW_GROUP_ROWS, _ROW_GROUP_BYTES = 1 << 16, 32 << 20
# A batch of one row takes 10 kB of memory, whatever its values: small ones are joined before they are too many.
_BATCHES_JOINED = 256
# pyarrow looks at the size of a page after this many values, and a page comes into memory whole.
_VALUES_AT_A_TIME, _PAGE_BYTES = 1024, 1 << 20
# Bytes of a text, on average, offset included: longer ones are compressed in the work folder, and of even longer ones
# few are alike in an output.
_SHORT_TEXT_BYTES, _LONG_TEXT_BYTES = 24, 64
# Values that show whether most of a column's differ.
_LOOKED_AT = 1024
_DELTA = "DELTA_BINARY_PACKED"


def work_settings(rows: pa.Table) -> dict[str, Any]:
    """Files of the work folder are read once or twice: LZ4, of long texts alone. Its files are 1.6 times as large as
    those of zstd at level 1, and take half to three quarters of the time to write and read.

    A compressor takes longer to begin than to write the other columns of a unit, which their encodings make as small.
    """
    settings: dict[str, Any] = {"write_statistics": False, "compression": "lz4", "use_dictionary": False}
    if _has_nested(rows.schema):
        return settings
    long = [field.name for field in rows.schema if _is_text(rows[field.name], _SHORT_TEXT_BYTES)]
    return {
        **settings,
        "compression": {name: "lz4" if name in long else "none" for name in rows.column_names},
        "use_dictionary": [field.name for field in rows.schema if field.name not in long and _has_words(field.type)],
        "column_encoding": {field.name: _DELTA for field in rows.schema if pa.types.is_integer(field.type)},
    }


def output_settings(rows: pa.Table) -> dict[str, Any]:
    """Level 3 makes files 29 % smaller than level 1 and takes 1.4 times as long, see
    `tests/benchmarks/parquet_settings.py`.

    A dictionary holds the values of a column, but neither long texts nor numbers and ids that mostly differ: without
    theirs, files are written and read faster, and are no larger.
    """
    settings: dict[str, Any] = {"compression": "zstd", "compression_level": 3}
    if _has_nested(rows.schema):
        return settings
    names = rows.column_names
    words = [name for name in names if not (_is_text(rows[name], _LONG_TEXT_BYTES) or _mostly_differs(rows[name]))]
    return {**settings, "use_dictionary": words}


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
    settings: Settings = work_settings,
) -> tuple[memoryview, Facts]:
    """A compressed parquet file in memory, and its final facts; its metadata hold them without those `left_out`."""
    sink = pa.BufferOutputStream()
    groups = _row_groups(batches)
    first = next(groups, [])
    beginning = pa.Table.from_batches(first, schema)
    with pq.ParquetWriter(sink, schema, write_batch_size=_values_at_a_time(beginning), **settings(beginning)) as writer:
        while first:
            writer.write_table(pa.Table.from_batches(first))
            first = next(groups, [])
        facts = facts if finish is None else finish(facts)
        writer.add_key_value_metadata({_FACTS: facts.model_dump_json(exclude=set(left_out)).encode()})
    return memoryview(sink.getvalue()), facts


def _values_at_a_time(rows: pa.Table) -> int:
    """How many values to write before a page may end: fewer where rows are longer than a kilobyte."""
    return int(max(1, min(_VALUES_AT_A_TIME, _PAGE_BYTES * rows.num_rows // max(1, rows.nbytes))))


def _has_nested(schema: pa.Schema) -> bool:
    return any(pa.types.is_nested(kind) for kind in schema.types)


def _has_words(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_decimal(kind))


def _is_text(column: pa.ChunkedArray, least: int) -> bool:
    """Whether it is text of at least so many bytes a row."""
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return bool(is_text and column.nbytes >= least * max(1, len(column)))


def _mostly_differs(column: pa.ChunkedArray) -> bool:
    """False for types whose values pyarrow cannot compare."""
    first = column.slice(0, _LOOKED_AT).combine_chunks()
    if pa.types.is_dictionary(first.type) or pa.types.is_null(first.type):
        return False
    try:
        return bool(2 * len(first.dictionary_encode().dictionary) > len(first))
    except pa.ArrowNotImplementedError:
        return False


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Gathers batches to row groups that are large enough to read fast and small enough for memory."""
    group: list[pa.RecordBatch] = []
    rows = size = joined = 0
    for batch in batches:
        group.append(batch)
        if len(group) - joined == _BATCHES_JOINED:
            group[joined:] = pa.Table.from_batches(group[joined:]).combine_chunks().to_batches()
            joined = len(group)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _ROW_GROUP_ROWS or size >= _ROW_GROUP_BYTES:
            yield group
            group, rows, size, joined = [], 0, 0, 0
    if group:
        yield group
