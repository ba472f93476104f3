"""`label --reference large`, a helper's answers, and recorded signals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from batchroute.confidence.answers import Answers
from batchroute.errors import InputError
from batchroute.tables import quality_table
from tests.commands.label.test_label import options, run

RULE = r"is \(?([A-D])"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Recorded answers to four kinds of rows: who is right, and whether the helper says the same."""
    kinds = {
        "prompt": ["both right", "both wrong alike", "both wrong", "small wrong"],
        "reference": ["A", "A", "A", "A"],
        "small_responses": ["It is A", "It is (B)", "It is C", "It is D"],
        "large_responses": ["The answer is (A).", "The answer is B", "The answer is D", "Well, it is A"],
        "helper": ["is A", "is C", "is C", "is A"],
        "agrees": [True, False, True, None],
    }
    frame = pl.concat([pl.DataFrame(kinds).with_columns(pl.col("prompt") + f" {copy}") for copy in range(20)])
    frame.write_parquet(tmp_path / "logs.parquet")
    return tmp_path / "logs.parquet"


def labelled(logs: Path, **more: Any) -> tuple[pl.DataFrame, list[str]]:
    metric = {"name": "exact_match", "extract": RULE}
    outcome, _ = run(options(logs, id=None, models=None, metric=metric, **more))
    return pl.read_parquet(outcome.output), outcome.report.sentences()


def test_the_large_model_s_answers_are_the_reference_and_the_table_says_so(logs: Path) -> None:
    table, sentences = labelled(logs, reference="large")
    assert table["small_quality"].to_list() == [[1.0], [1.0], [0.0], [0.0]] * 20
    assert table["large_quality"].to_list() == [[1.0]] * 80
    metadata = pq.read_schema(logs.parent / "q.parquet").metadata
    assert metadata[b"reference"] == b"large"
    assert quality_table.read(str(logs.parent / "q.parquet")).reference == "large"
    assert "likeness to the large model, not truth" in sentences[0]


def test_label_says_how_often_likeness_and_references_agree(logs: Path) -> None:
    _, sentences = labelled(logs, reference="large")
    assert (
        "likeness and references say the same of 75% of 80 rows with references: by likeness the small model is as "
        "good in 50%, by the references in 75%" in sentences
    )
    report = json.loads((logs.parent / "q.report.json").read_text())
    assert report["likeness"] == {"rows": 80, "as_good": 0.5, "truly_as_good": 0.75, "agree": 0.75}


def test_without_references_likeness_is_all_there_is(logs: Path) -> None:
    pl.read_parquet(logs).drop("reference").write_parquet(logs)
    table, sentences = labelled(logs, reference="large")
    assert table["small_quality"].to_list() == [[1.0], [1.0], [0.0], [0.0]] * 20
    assert not any("say the same" in sentence for sentence in sentences)


def test_several_answers_of_the_large_model_are_compared_with_its_next(logs: Path) -> None:
    several = pl.read_parquet(logs).with_columns(
        small_responses=pl.lit(["is A", "is B"], pl.List(pl.String)),
        large_responses=pl.lit(["is A", "is A", "is C"], pl.List(pl.String)),
    )
    several.write_parquet(logs)
    table, _ = labelled(logs, reference="large")
    assert table["small_quality"].to_list() == [[1.0, 0.0]] * 80
    assert table["large_quality"].to_list() == [[1.0, 0.0, 0.0]] * 80


def test_agreement_with_a_helper_is_a_signal_by_the_same_metric(logs: Path) -> None:
    table, _ = labelled(logs, helper="helper")
    assert table["helper_agreement"].to_list() == [[1.0], [0.0], [1.0], [0.0]] * 20
    assert table["small_quality"].to_list() == [[1.0], [0.0], [0.0], [0.0]] * 20
    read = quality_table.read(str(logs.parent / "q.parquet"))
    assert Answers.of(read).signals.known == ["helper_agreement"]
    assert read.tells


def test_samples_of_one_prompt_agree_by_the_metric_as_extra_samples_would(logs: Path) -> None:
    several = pl.read_parquet(logs).with_columns(
        small_responses=pl.lit(["is A", "is B", "is A", "is A"], pl.List(pl.String)),
        small_output_tokens=pl.lit([1, 10, 100, 1000], pl.List(pl.Int64)),
    )
    several.write_parquet(logs)
    table, _ = labelled(logs, agree=2)
    assert table["small_agreement"].to_list() == [[0.5, 0.0, 1.0, 0.5]] * 80
    read = quality_table.read(str(logs.parent / "q.parquet"))
    assert Answers.of(read).signals.agreement[:4].tolist() == [0.5, 0.0, 1.0, 0.5]
    assert read.sample_tokens is not None
    assert read.sample_tokens.written[0] == pytest.approx((110 + 1100 + 1001 + 11) / 4)


def test_a_row_with_too_few_samples_has_no_agreement(logs: Path) -> None:
    table, _ = labelled(logs, agree=1)
    assert table["small_agreement"].to_list() == [[]] * 80
    assert not quality_table.read(str(logs.parent / "q.parquet")).tells


def test_recorded_columns_are_kept_as_signals(logs: Path) -> None:
    labelled(logs, signals=["agrees"])
    signals = Answers.of(quality_table.read(str(logs.parent / "q.parquet"))).signals
    assert signals.extra["agrees"][:3].tolist() == [1.0, 0.0, 1.0]
    assert signals.known == ["agrees"]


def test_a_table_without_the_new_settings_keeps_its_identity(logs: Path) -> None:
    first = run(options(logs, id=None, models=None))[0].report.run_id
    assert run(options(logs, id=None, models=None, signals=[], helper=None))[0].report.run_id == first
    with pytest.raises(InputError, match="helper"):
        run(options(logs, id=None, models=None, helper="helper"))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"signals": ["missing"]}, "--signal"),
        ({"helper": "missing"}, "--helper"),
    ],
)
def test_a_column_that_is_missing_is_named(logs: Path, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        labelled(logs, **more)
