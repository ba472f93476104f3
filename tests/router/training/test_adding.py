from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.errors import InputError
from batchroute.router.notes import Notes, prompt_digest
from batchroute.router.training.adding import with_added
from batchroute.router.training.train import train
from batchroute.tables import quality_table
from tests.router.training.trainings import options, write_table

METADATA = {"small_model": "small", "large_model": "large", "metric": "bartscore"}


def table_of(path: Path, prompts: list[str], metadata: dict[str, str] = METADATA, **columns: list[object]) -> str:
    qualities = {"small_quality": [[float(i)] for i in range(len(prompts))], "large_quality": [[1.0]] * len(prompts)}
    table = pa.table({"prompt": prompts, **qualities, **columns})
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return str(path)


def test_a_prompt_of_several_tables_is_one_row_with_all_its_qualities(tmp_path: Path) -> None:
    first = quality_table.read(table_of(tmp_path / "1.parquet", ["a", "b", "c"]))
    second = table_of(tmp_path / "2.parquet", [" b ", "d", "c", "e"], weight=[3.0, 0.5, 1.0, 1.0])
    said: list[str] = []
    rows = with_added(first, np.array([0, 1]), {"c"}, [second], said.append)
    assert rows.prompts == ["a", "b", "d", "e"]
    assert [quality.tolist() for quality in rows.small] == [[0.0], [1.0, 0.0], [1.0], [3.0]]
    assert rows.weights is not None
    assert rows.weights.tolist() == [1.0, 2.0, 0.5, 1.0]
    assert rows.sha256 != first.sha256
    (line,) = said
    assert "2 new prompts, 1 rows of known ones; 1 rows are left out" in line


def test_without_another_table_nothing_changes(tmp_path: Path) -> None:
    first = quality_table.read(table_of(tmp_path / "1.parquet", ["a", "a", "b"]))
    rows = with_added(first, np.array([0, 1]), set(), [], pytest.fail)
    assert (rows.prompts, rows.sha256) == (["a", "a"], first.sha256)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "chrf"}, r"2.parquet' was measured by chrf, and .*1.parquet' by bartscore"),
        ({"large_model": "huge"}, r"its large model is huge, not large; leave it out"),
        ({"reference": "large"}, r"2.parquet' are likeness to the large model's answers"),
    ],
)
def test_another_metric_or_pair_is_refused(tmp_path: Path, change: dict[str, str], words: str) -> None:
    first = quality_table.read(table_of(tmp_path / "1.parquet", ["a"]))
    second = table_of(tmp_path / "2.parquet", ["b"], METADATA | change)
    with pytest.raises(InputError, match=words):
        with_added(first, np.array([0]), set(), [second], pytest.fail)


def test_a_weight_must_be_above_zero(tmp_path: Path) -> None:
    path = table_of(tmp_path / "1.parquet", ["a", "b"], weight=[1.0, 0.0])
    with pytest.raises(InputError, match=r"row 2 of the quality table '.*' has the weight 0: it must be above 0"):
        quality_table.read(path)


def test_a_training_learns_from_added_rows_and_keeps_its_test_rows(tmp_path: Path) -> None:
    table = write_table(tmp_path, rows=100)
    first = quality_table.read(table)
    night = table_of(tmp_path / "night.parquet", [*first.prompts, "a new prompt"])
    result = train(options(tmp_path, table, epochs=1, validation=0.1, test=0.3, add=[night]))
    assert result.train_rows == 61
    notes = Notes.read(str(result.output))
    assert prompt_digest("a new prompt") in notes.trained
    assert len(notes.held_out(first)) == 30
