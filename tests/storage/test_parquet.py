"""Parquet files as a run writes them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.storage.parquet import parquet_bytes
from batchroute.storage.receipts import Facts


def test_batches_of_one_row_take_the_memory_of_their_values() -> None:
    schema = pa.schema([(f"column {number}", pa.string()) for number in range(10)])
    before, most = pa.total_allocated_bytes(), 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal most
        for number in range(4000):
            most = max(most, pa.total_allocated_bytes() - before)
            yield pa.RecordBatch.from_arrays([pa.array([f"value {number}"]) for _ in schema], schema=schema)

    facts = Facts(run_id="run", unit="00000", rows=4000, first=0, last=3999)
    data, _ = parquet_bytes(schema, batches(), facts)
    assert pq.read_table(pa.BufferReader(data))["column 9"].to_pylist() == [f"value {n}" for n in range(4000)]
    # 14 bytes a value, with its offset; alone in its batch it takes two buffers of 64.
    assert most < 2 * 4000 * 10 * 14
