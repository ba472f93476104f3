"""The tables between the steps of `paper.sh`.

    python jobs/paper/tables.py answers FIRST SECOND ANSWERS.parquet   # FIRST, SECOND: what two runs of `label` left
    python jobs/paper/tables.py parts ANSWERS.parquet FOLDER           # the rows to learn and measure on, and a backlog

`FIRST` is the quality table of the small and the middle model, `SECOND` that of the middle and the large one. The table
of answers has, for each of the three, the columns `small_responses`, `small_quality`, `small_output_tokens`, …: lists
with one entry a sample.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

MODELS = ("small", "middle", "large")
BACKLOG_ROWS = 200
_OF_A_MODEL = ("responses", "quality", "input_tokens", "output_tokens", "logprob", "logprob_low")


def answers(first: Path, second: Path, output: Path) -> None:
    """Join by id; the middle model's columns are those of the second table, which copied them from the first."""
    table = _side(first, "small", "small").join(_side(first, "large", "middle"), on="id", validate="1:1")
    table = table.join(_side(second, "large", "large"), on="id", validate="1:1")
    rows = pl.read_parquet(first).select("id", pl.col("^(task|split|level)$"), "prompt")
    rows = rows.join(pl.read_parquet(_responses(first)).select("id", "reference"), on="id", validate="1:1")
    table = rows.join(table, on="id", validate="1:1", maintain_order="left")
    arrow = table.to_arrow()
    names = {"small": (first, "small"), "middle": (first, "large"), "large": (second, "large")}
    metadata = {}
    for model, (file, side) in names.items():
        noted = pq.read_schema(file).metadata
        for key in ("model", "seconds_per_token"):
            metadata[f"{model}_{key}".encode()] = noted[f"{side}_{key}".encode()]
        metadata[b"sampling"] = noted[b"sampling"]
        metadata[b"metric"] = noted[b"metric"]
    pq.write_table(arrow.replace_schema_metadata(metadata), output, compression="zstd", compression_level=19)


def _side(table: Path, side: str, model: str) -> pl.DataFrame:
    """One model's columns, renamed. Log-probabilities are rounded: three digits say all that a sample can."""
    whole = pl.read_parquet(table).join(pl.read_parquet(_responses(table)).drop("prompt"), on="id", validate="1:1")
    columns = {f"{side}_{name}": f"{model}_{name}" for name in _OF_A_MODEL if f"{side}_{name}" in whole.columns}
    frame = whole.select("id", *columns).rename(columns)
    small = {
        name: pl.col(name).list.eval(pl.element().round(3).cast(pl.Float32))
        for name in frame.columns
        if name.endswith(("quality", "logprob", "logprob_low"))
    }
    return frame.with_columns(**small)


def _responses(table: Path) -> Path:
    return table.with_name(f"{table.stem}.responses.parquet")


def parts(table: Path, folder: Path) -> None:
    """`labelled.parquet`, and `backlog.parquet`: test rows whose labels nothing is fitted to or measured on."""
    whole = pq.read_table(table)
    frame = pl.from_arrow(whole)
    assert isinstance(frame, pl.DataFrame)
    test = frame.filter(pl.col("split") == "test")
    backlog = test.sample(min(BACKLOG_ROWS, len(test) // 4), seed=0).sort("id")
    labelled = frame.join(backlog.select("id"), on="id", how="anti", maintain_order="left")
    backlog.write_parquet(folder / "backlog.parquet")
    arrow = labelled.to_arrow().replace_schema_metadata(whole.schema.metadata)
    pq.write_table(arrow, folder / "labelled.parquet")


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    {"answers": answers, "parts": parts}[command](*map(Path, paths))
