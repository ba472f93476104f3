"""What the settings of parquet cost: seconds to write and to read, and bytes, for work files and for the output's.

    python -m tests.benchmarks.parquet_settings --prompts FILE.parquet [--rows 35000]

A work file is a piece of a shard (position, prompt, tokens) of 2,000 rows in one row group; a part of the output has
the prompt with a response of the same length and small columns, in row groups of 65,536 rows. Each setting writes all
rows and reads them back, in turn; medians of the repeats. The first two are what the package writes with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.storage.parquet import Settings, output_settings, work_settings

DEFAULT_PROMPTS = Path(__file__).parents[2] / "sample_data" / "prompts.parquet"
SETTINGS: dict[str, dict[str, Any] | Settings] = {
    "the work folder's": work_settings,
    "the output's": output_settings,
    "zstd 1, dictionaries": {"compression": "zstd"},
    "zstd 1, no dictionaries": {"compression": "zstd", "use_dictionary": False},
    "zstd 9, dictionaries": {"compression": "zstd", "compression_level": 9},
    "lz4, dictionaries": {"compression": "lz4"},
    "lz4, no dictionaries": {"compression": "lz4", "use_dictionary": False},
    "snappy, dictionaries": {"compression": "snappy"},
    "none, no dictionaries": {"compression": "none", "use_dictionary": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = DEFAULT_PROMPTS if DEFAULT_PROMPTS.is_file() else None
    parser.add_argument("--prompts", default=default, required=default is None, help="parquet with a column prompt")
    parser.add_argument("--rows", type=int, default=35_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="2,000 rows, once")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.repeats = 2_000, 1
    prompts = pl.read_parquet(arguments.prompts, columns=["prompt"])["prompt"].head(arguments.rows)
    results = []
    for kind, table, rows in (("work", work(prompts), 2_000), ("output", output(prompts), 65_536)):
        pieces = [table.slice(start, rows) for start in range(0, table.num_rows, rows)]
        found: dict[str, list[tuple[float, float, int]]] = {}
        for _ in range(arguments.repeats):
            for name, settings in SETTINGS.items():
                found.setdefault(name, []).append(measure(pieces, settings))
        print(f"\n{kind:<26}{'write s':>9}{'read s':>9}{'MB':>9}")
        for name, runs in found.items():
            write, read, size = (statistics.median(run[i] for run in runs) for i in range(3))
            print(f"{name:<26}{write:>9.3f}{read:>9.3f}{size / 1e6:>9.2f}")
            results.append({"files": kind, "settings": name, "write": write, "read": read, "bytes": size})
    print(json.dumps(results))


def work(prompts: pl.Series) -> pa.Table:
    rows = pl.DataFrame({"position": range(len(prompts)), "prompt": prompts, "tokens": prompts.str.len_chars() // 4})
    return rows.with_columns(copy_of=pl.lit(None, pl.Int64)).to_arrow()


def output(prompts: pl.Series) -> pa.Table:
    number = pl.int_range(len(prompts))
    return (
        pl.DataFrame({"id": range(len(prompts)), "prompt": prompts})
        .with_columns(
            route=pl.when(number % 2 == 0).then(pl.lit("small")).otherwise(pl.lit("large")),
            score=(number * 0.618 % 1).cast(pl.Float32),
            response=pl.col("prompt").shift(1, fill_value="").str.reverse(),
            input_tokens=pl.col("prompt").str.len_chars().cast(pl.Int32) // 4,
            status=pl.lit("ok"),
            error=pl.lit(None, pl.String),
        )
        .to_arrow()
    )


def measure(pieces: list[pa.Table], settings: dict[str, Any] | Settings) -> tuple[float, float, int]:
    """Seconds to write and to read, and bytes."""
    write = read = 0.0
    size = 0
    for piece in pieces:
        started = time.perf_counter()
        sink = pa.BufferOutputStream()
        of_piece = settings(piece) if callable(settings) else settings
        with pq.ParquetWriter(sink, piece.schema, **of_piece) as writer:
            writer.write_table(piece)
        written = time.perf_counter()
        data = sink.getvalue()
        assert pq.read_table(pa.BufferReader(data), use_threads=False).num_rows == piece.num_rows
        read += time.perf_counter() - written
        write += written - started
        size += data.size
    return write, read, size


if __name__ == "__main__":
    main()
