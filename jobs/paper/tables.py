"""The tables between the steps of `paper.sh`.

    python jobs/paper/tables.py missing PROMPTS KNOWN REST [ROWS]     # prompts without answers in KNOWN, at most ROWS
    python jobs/paper/tables.py answers FIRST SECOND KNOWN ANSWERS    # what two runs of `label` left, after KNOWN
    python jobs/paper/tables.py parts ANSWERS FOLDER                  # rows to learn and measure on, and a backlog
    python jobs/paper/tables.py names ANSWERS                         # what small, middle and large are
    python jobs/paper/tables.py natural TABLE PROMPTS ROWS CHARACTERS # short prompts of a table, drawn and split

`FIRST` is the quality table of the small and the large model, `SECOND` that of the middle and the large one. A table of
answers has for each of the three models the columns `small_responses`, `small_quality`, `small_output_tokens`, …: lists
with one entry a sample.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

BACKLOG_ROWS = 200
NATURAL_SHARES = {"train": 0.5, "validation": 0.1, "test": 0.4}
LONGEST_REFERENCE = 60
"""Characters. Answers are cut after 24 tokens, so a longer reference would measure the cut."""
_OF_A_MODEL = ("responses", "quality", "input_tokens", "output_tokens", "logprob", "logprob_low")
_ROUNDED = ("quality", "logprob", "logprob_low")


def missing(prompts: Path, known: Path, rest: Path, rows: str = "1000000") -> None:
    """The splits stay in proportion: the first rows of each kind, level and split come first."""
    frame = pl.read_parquet(prompts)
    if known.exists():
        frame = frame.join(pl.read_parquet(known, columns=["id"]), on="id", how="anti", maintain_order="left")
    strata = [name for name in ("task", "level", "split") if name in frame.columns]
    order = frame.select((pl.int_range(pl.len()) / pl.len()).over(strata)).to_series().arg_sort()
    frame[order[: int(rows)].sort()].write_parquet(rest)
    print(f"{min(int(rows), len(frame)):,} of {len(frame):,} prompts without answers are to be asked")


def answers(first: Path, second: Path, known: Path, output: Path) -> None:
    """Join by id. The large model's columns are those of the first table; the second took its answers from there."""
    table = _side(first, "small", "small").join(_side(second, "small", "middle"), on="id", validate="1:1")
    table = table.join(_side(first, "large", "large"), on="id", validate="1:1")
    rows = pl.read_parquet(first).select("id", pl.col("^(task|split)$"), "prompt")
    rows = rows.join(pl.read_parquet(_responses(first)).select("id", "reference"), on="id", validate="1:1")
    table = rows.join(table, on="id", validate="1:1", maintain_order="left")
    sources = {"small": (first, "small"), "middle": (second, "small"), "large": (first, "large")}
    metadata = {b"metric": _noted(first, "metric"), b"sampling": _noted(first, "sampling")}
    for model, (file, side) in sources.items():
        for key in ("model", "seconds_per_token"):
            metadata[f"{model}_{key}".encode()] = _noted(file, f"{side}_{key}")
    if known.exists():
        _check_same(known, metadata)
        table = pl.concat([pl.read_parquet(known), table.select(pl.read_parquet_schema(known).names())])
    arrow = table.to_arrow().replace_schema_metadata(metadata)
    pq.write_table(arrow, output, compression="zstd", compression_level=19)


def parts(table: Path, folder: Path) -> None:
    """`labelled.parquet`, and `backlog.parquet`: test rows whose labels nothing is fitted to or measured on.

    `plain.parquet` has the rows of the first without what the answers say of themselves, as in the paper.
    """
    frame = pl.read_parquet(table)
    test = frame.filter(pl.col("split") == "test")
    backlog = test.sample(min(BACKLOG_ROWS, len(test) // 4), seed=0).sort("id")
    backlog.write_parquet(folder / "backlog.parquet")
    rest = frame.join(backlog.select("id"), on="id", how="anti", maintain_order="left")
    # The last is what says that all are there.
    for name, rows in (("plain", rest.select(pl.exclude("^.*_logprob(_low)?$"))), ("labelled", rest)):
        arrow = rows.to_arrow().replace_schema_metadata(pq.read_schema(table).metadata)
        pq.write_table(arrow, folder / f"{name}.parquet")


def names(table: Path) -> None:
    for model in ("small", "middle", "large"):
        print(model, _noted(table, f"{model}_model").decode())


def natural(table: Path, prompts: Path, rows: str, characters: str) -> None:
    """Rows of a table with the columns `prompt` and `reference`, drawn by a fixed seed; equal prompts count once."""
    frame = pl.read_parquet(table).filter(
        pl.col("prompt").str.len_chars() <= int(characters),
        pl.col("prompt").str.strip_chars() != "",
        pl.col("reference").str.strip_chars().str.len_chars().is_between(1, LONGEST_REFERENCE),
    )
    frame = frame.unique("prompt", keep="first", maintain_order=True)
    drawn = frame.sample(min(int(rows), len(frame)), seed=0, shuffle=True)
    bounds = [round(len(drawn) * share) for share in (NATURAL_SHARES["train"], 1 - NATURAL_SHARES["test"])]
    row = pl.int_range(pl.len())
    split = pl.when(row < bounds[0]).then(pl.lit("train")).when(row < bounds[1]).then(pl.lit("validation"))
    drawn.with_columns(split=split.otherwise(pl.lit("test"))).write_parquet(prompts)
    print(f"{len(drawn):,} of {len(frame):,} rows with at most {characters} characters")


def _side(table: Path, side: str, model: str) -> pl.DataFrame:
    """One model's columns, renamed. Log-probabilities keep three digits, more than a sample can tell."""
    whole = pl.read_parquet(table).join(pl.read_parquet(_responses(table)).drop("prompt"), on="id", validate="1:1")
    columns = {f"{side}_{name}": f"{model}_{name}" for name in _OF_A_MODEL if f"{side}_{name}" in whole.columns}
    rounded = {
        f"{model}_{name}": pl.col(f"{model}_{name}").list.eval(pl.element().round(3).cast(pl.Float32))
        for name in _ROUNDED
        if f"{model}_{name}" in columns.values()
    }
    return whole.select("id", *columns).rename(columns).with_columns(**rounded)


def _responses(table: Path) -> Path:
    return table.with_name(f"{table.stem}.responses.parquet")


def _noted(table: Path, key: str) -> bytes:
    noted: bytes = pq.read_schema(table).metadata[key.encode()]
    return noted


def _check_same(known: Path, metadata: dict[bytes, bytes]) -> None:
    for key, value in metadata.items():
        if not key.endswith(b"seconds_per_token") and _noted(known, key.decode()) != value:
            sys.exit(f"error: {known} was made with another {key.decode()}: move it away to make a table of its own")


def main(arguments: Sequence[str]) -> None:
    command, *rest = arguments
    if command == "missing":
        missing(*map(Path, rest[:3]), *rest[3:])
    elif command == "natural":
        natural(*map(Path, rest[:2]), *rest[2:])
    else:
        {"answers": answers, "parts": parts, "names": names}[command](*map(Path, rest))


if __name__ == "__main__":
    main(sys.argv[1:])
