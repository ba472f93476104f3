"""The split of a quality table: no prompt on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.errors import InputError
from batchroute.router.training.split import split
from batchroute.tables.quality_table import QualityTable, read


def many(folder: Path, prompts: list[str], **more: Any) -> QualityTable:
    ones = [[1.0]] * len(prompts)
    columns = {"prompt": prompts, "small_quality": ones, "large_quality": ones, **more}
    pq.write_table(pa.table(columns), folder / "table.parquet")
    return read(str(folder / "table.parquet"))


def test_split_keeps_identical_prompts_together(tmp_path: Path) -> None:
    table = many(tmp_path, [f"prompt {row % 50}" for row in range(200)])
    train, validation = split(table, validation=0.2, test=0.0, seed=0)
    assert sorted([*train, *validation]) == list(range(200))
    assert len(validation) == 40
    assert not {table.prompts[row] for row in train} & {table.prompts[row] for row in validation}
    again, _ = split(table, validation=0.2, test=0.0, seed=0)
    other, _ = split(table, validation=0.2, test=0.0, seed=1)
    assert again.tolist() == train.tolist() != other.tolist()


def test_split_follows_the_column(tmp_path: Path) -> None:
    table = many(tmp_path, ["a", "b", "c", "d"], split=["validation", "train", "test", None])
    train, validation = split(table, validation=0.5, test=0.2, seed=0)
    assert (train.tolist(), validation.tolist()) == ([1], [0])


def test_split_refuses_a_leak_and_an_empty_side(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the prompt in row 3 .* is in both train and validation"):
        split(many(tmp_path, ["a", "b", "a"], split=["train", "train", "validation"]), 0.2, 0.0, 0)
    with pytest.raises(InputError, match="has no row 'validation'"):
        split(many(tmp_path, ["a", "b"], split=["train", "train"]), 0.2, 0.0, 0)
    with pytest.raises(InputError, match="has 1 different prompts, too few"):
        split(many(tmp_path, ["a"] * 80), 0.2, 0.0, 0)


def test_split_leaves_rows_aside_for_tests_with_all_copies_of_their_prompts(tmp_path: Path) -> None:
    table = many(tmp_path, [f"prompt {row % 50}" + " " * (row % 2) for row in range(200)])
    train, validation = split(table, validation=0.1, test=0.3, seed=0)
    assert (len(train), len(validation)) == (120, 20)
    aside = set(range(200)) - {*train, *validation}
    parts = [{table.prompts[row].strip() for row in rows} for rows in (train, validation, aside)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 50


def test_rows_are_counted_as_in_the_file_where_failed_ones_are_left_out(tmp_path: Path) -> None:
    marks = {"split": ["train", "train", "validation"], "status": ["failed", "ok", "ok"]}
    with pytest.raises(InputError, match=r"the prompt in row 3 .* is in both"):
        split(many(tmp_path, ["other", "same", "same "], **marks), 0.2, 0.0, 0)
