"""The columns of an output by another engine, which proves nothing, resumes nothing and counts nothing.

    PYTHON job_in_engines.py ray|ray-zstd|daft IN.parquet OUT

PYTHON needs pyarrow and that engine alone. `job_without_models.py` starts it. `ray` compresses its files as it does by
itself, `ray-zstd` as batchroute does.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import pyarrow as pa

KINDS = {
    "route": pa.string(), "score": pa.float32(), "model": pa.string(), "response": pa.string(),
    "finish_reason": pa.string(), "input_tokens": pa.int32(), "output_tokens": pa.int32(), "cost": pa.float64(),
    "status": pa.string(), "error_type": pa.string(), "error": pa.string(), "attempts": pa.int32(),
}  # fmt: skip


def answered(ids: list[int], prompts: list[str]) -> list[pa.Array]:
    """The columns that a job adds, in the order of KINDS."""
    rows, small = len(ids), [position % 2 == 0 for position in ids]
    tokens = [len(prompt.split()) for prompt in prompts]
    columns = [
        ["small" if one else "large" for one in small], [0.5] * rows, ["echo" if one else "echo-2" for one in small],
        prompts, ["stop"] * rows, tokens, tokens, [2e-6 * count for count in tokens], ["ok"] * rows,
        [None] * rows, [None] * rows, [1] * rows,
    ]  # fmt: skip
    return [pa.array(column, kind) for column, kind in zip(columns, KINDS.values(), strict=True)]


def by_ray(source: str, target: str, **files: Any) -> None:
    """Args:
    files: settings of pyarrow's writer.
    """
    import ray

    def with_answers(rows: pa.Table) -> pa.Table:
        added = answered(rows["id"].to_pylist(), rows["prompt"].to_pylist())
        for name, column in zip(KINDS, added, strict=True):
            rows = rows.append_column(name, column)
        return rows

    ray.init(address="local", log_to_driver=False)
    rows = ray.data.read_parquet(source)
    rows.map_batches(with_answers, batch_format="pyarrow", batch_size=2048).write_parquet(target, **files)


def by_daft(source: str, target: str) -> None:
    import daft

    kinds = daft.DataType.from_arrow_type(pa.struct(list(KINDS.items())))

    @daft.func.batch(return_dtype=kinds, unnest=True)
    def answers(ids: Any, prompts: Any) -> pa.Array:
        return pa.StructArray.from_arrays(answered(ids.to_pylist(), prompts.to_pylist()), list(KINDS))

    rows = daft.read_parquet(source)
    rows.select("id", "prompt", "team", answers(rows["id"], rows["prompt"])).write_parquet(target)


by_ray_zstd = functools.partial(by_ray, compression="zstd", compression_level=3)
ENGINES = {"ray": by_ray, "ray-zstd": by_ray_zstd, "daft": by_daft}

if __name__ == "__main__":
    ENGINES[sys.argv[1]](*sys.argv[2:])
