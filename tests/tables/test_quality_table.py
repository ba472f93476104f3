from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.errors import InputError
from batchroute.tables import quality_table

GOOD: dict[str, Any] = {
    "prompt": ["one", "two", "three"],
    "small_quality": [[0.5, 1.0], [0.0], [1.0]],
    "large_quality": [[1.0], [0.5, 0.5, 0.25], [1.0]],
}


def write(folder: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None) -> str:
    path = folder / "table.parquet"
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return str(path)


def test_reads_rows_optional_columns_and_metadata(tmp_path: Path) -> None:
    more = {"id": [7, 8, 9], "task": ["a", None, "b"], "split": ["train", "validation", "test"], "ignored": [1, 2, 3]}
    path = write(tmp_path, GOOD | more, {"small_model": "s", "metric": "bartscore"})
    table = quality_table.read(path)
    assert len(table) == 3
    assert table.prompts == ["one", "two", "three"]
    assert [quality.tolist() for quality in table.small] == GOOD["small_quality"]
    assert [quality.tolist() for quality in table.large] == GOOD["large_quality"]
    assert table.small_mean.tolist() == [0.75, 0.0, 1.0]
    assert (table.ids, table.tasks, table.splits) == (more["id"], more["task"], more["split"])
    assert table.metadata == {"small_model": "s", "metric": "bartscore"}
    assert table.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    taken = table.take([2, 0])
    assert (taken.prompts, taken.ids, taken.small[1].tolist()) == (["three", "one"], [9, 7], [0.5, 1.0])


def test_accepts_other_numbers_and_list_types(tmp_path: Path) -> None:
    integers = pa.array([[1, 0], [0, 0], [1, 1]], pa.list_(pa.int32(), 2))
    floats = pa.array(GOOD["large_quality"], pa.large_list(pa.float32()))
    path = write(tmp_path, GOOD | {"small_quality": integers, "large_quality": floats})
    table = quality_table.read(path)
    assert table.small[0].dtype == np.float64
    assert [quality.tolist() for quality in table.small] == [[1, 0], [0, 0], [1, 1]]
    assert table.ids is None


def test_tokens_of_a_model_are_read_where_both_columns_are_there(tmp_path: Path) -> None:
    tokens = {
        "small_input_tokens": [10, None, 30],
        "small_output_tokens": [[4, 6], [], None],
        "large_input_tokens": [1, 2, 3],
    }
    table = quality_table.read(write(tmp_path, GOOD | tokens | {"status": ["ok", "failed", "ok"]}))
    assert table.tokens.keys() == {"small"}
    assert table.tokens["small"].read.tolist() == [10.0, 30.0]
    assert table.tokens["small"].written == pytest.approx([5.0, np.nan], nan_ok=True)
    assert table.take([1]).tokens["small"].read.tolist() == [30.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"large_quality": None}, "has no column 'large_quality', only prompt, small_quality: it needs"),
        ({"small_quality": [0.5, 0.0, 1.0]}, "'small_quality' .* has type double: it must be list<double>"),
        ({"small_quality": [["x"], ["y"], ["z"]]}, r"'small_quality' .* it must be list<double>"),
        (
            {"small_input_tokens": ["a", "b", "c"], "small_output_tokens": [[1], [1], [1]]},
            r"'small_input_tokens' must be a number and 'small_output_tokens' a list of numbers .* they are string",
        ),
        ({"prompt": [[1], [2], [3]]}, "'prompt' .* it must be string"),
        ({"prompt": ["one", None, "three"]}, "the prompt in row 2 .* is empty"),
        ({"prompt": ["one", "two", " \n"]}, "the prompt in row 3 .* is empty"),
        ({"large_quality": [[1.0], [], [1.0]]}, "'large_quality' in row 2 .* is empty"),
        ({"large_quality": [[1.0], [0.5], None]}, "'large_quality' in row 3 .* is empty"),
        ({"small_quality": [[1.0, 0.5], [0.5, float("nan")], [1.0]]}, "'small_quality' in row 2 .* NaN"),
        ({"small_quality": [[1.0, 0.5], [0.5], [1.0, None]]}, "'small_quality' in row 3 .* null"),
        ({"small_quality": [[float("-inf")], [0.5], [1.0]]}, "'small_quality' in row 1 .* infinite"),
        ({"split": [[1], [2], [3]]}, "'split' .* it must be string"),
        ({"status": [[1], [2], [3]]}, "'status' .* it must be string"),
        ({"status": [1, 2, 3]}, "all 3 rows .* failed: none has the status 'ok'"),
        ({"small_quality": [None, None, None]}, "'small_quality' in row 1 .* is empty"),
        ({"large_quality": [[[1.0]], [[0.5]], [None]]}, r"'large_quality' .* has type list<.*list<.*it must be list<"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_column_and_row(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    columns = {name: values for name, values in (GOOD | change).items() if values is not None}
    path = write(tmp_path, columns)
    with pytest.raises(InputError, match=message) as raised:
        quality_table.read(path)
    assert path in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    columns = [pa.array(values) for values in (*GOOD.values(), ["a", "b", "c"])]
    pq.write_table(pa.table(columns, names=[*GOOD, "prompt"]), tmp_path / "table.parquet")
    with pytest.raises(InputError, match="has several columns 'prompt': rename all but one"):
        quality_table.read(str(tmp_path / "table.parquet"))


def test_rows_are_counted_as_in_the_file_where_failed_ones_are_left_out(tmp_path: Path) -> None:
    status = {"status": ["failed", "ok", "ok"]}
    assert quality_table.read(write(tmp_path, GOOD | status)).take([1]).numbers == [3]
    with pytest.raises(InputError, match="the prompt in row 2 "):
        quality_table.read(write(tmp_path, GOOD | status | {"prompt": ["", " ", "three"]}))
    with pytest.raises(InputError, match=r"'small_quality' in row 3 .* is empty"):
        quality_table.read(write(tmp_path, GOOD | status | {"small_quality": [[], [1.0], []]}))
    with pytest.raises(InputError, match=r"'large_quality' in row 3 .* NaN"):
        quality_table.read(write(tmp_path, GOOD | status | {"large_quality": [[], [1.0], [1.0, float("nan")]]}))


def test_a_missing_empty_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        quality_table.read(str(tmp_path / "none.parquet"))
    (tmp_path / "text.parquet").write_text("prompt,small\n")
    with pytest.raises(InputError, match=r"cannot read .* as parquet"):
        quality_table.read(str(tmp_path / "text.parquet"))
    empty = pa.table(GOOD).slice(0, 0)
    pq.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="has no rows"):
        quality_table.read(str(tmp_path / "empty.parquet"))


def test_rows_that_could_not_be_labelled_are_left_out_and_counted(tmp_path: Path) -> None:
    columns = {"prompt": ["a", "", "b"], "small_quality": [[1.0], [], [0.5]], "large_quality": [[1.0], [], [0.0]]}
    table = quality_table.read(write(tmp_path, {**columns, "status": ["ok", "failed", "ok"]}))
    assert (table.prompts, table.failed) == (["a", "b"], 1)
    assert [list(quality) for quality in table.small] == [[1.0], [0.5]]
    with pytest.raises(InputError, match=r"all 3 rows .* failed"):
        quality_table.read(write(tmp_path, {**columns, "status": ["failed", None, "failed"]}))
