"""MixInstruct's lines become a quality table that `train` and `evaluate` read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from batchroute.cli import app
from batchroute.commands.label.mixinstruct import import_mixinstruct
from batchroute.errors import InputError
from batchroute.tables import quality_table

NAMES: dict[Any, str] = {"small": "flan-t5-xxl", "large": "vicuna-13b-1.1"}


def candidate(model: str, text: str, **scores: Any) -> dict[str, Any]:
    return {"decoding_method": "top_p_sampling", "model": model, "text": text, "scores": scores}


LINES: list[dict[str, Any]] = [
    {
        "id": "unified_chip2/69962",
        "instruction": "Name the largest ocean.",
        "input": "",
        "output": "The Pacific.",
        "candidates": [
            candidate("flan-t5-xxl", "Atlantic", bartscore=-4.5, rougeL=0.0),
            candidate("vicuna-13b-1.1", "The Pacific Ocean.", bartscore=-1.5, rougeL=80.0),
            candidate("other", "x", bartscore=0.0),
        ],
    },
    {
        "id": "itwgpt4/1",
        "instruction": "Translate.",
        "input": "Hund",
        "output": "dog",
        "candidates": [
            candidate("flan-t5-xxl", "dog", bartscore=-0.5),
            candidate("vicuna-13b-1.1", "hound", bartscore=-2),
        ],
    },
    {
        "id": "a/2",
        "instruction": "Say hi.",
        "input": None,
        "output": "hi",
        "candidates": [candidate("flan-t5-xxl", "hi")],
    },
]


def put(path: Path, lines: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return str(path)


def test_two_models_become_a_quality_table(tmp_path: Path) -> None:
    file, output = put(tmp_path / "val.jsonl", LINES), tmp_path / "q.parquet"
    arguments = ["label", file, "--import", "mixinstruct", "--metric", "bartscore", "--output", str(output)]
    names = ["--small-model", NAMES["small"], "--large-model", NAMES["large"], "--keep-responses"]
    result = CliRunner().invoke(app, [*arguments, *names])
    assert result.exit_code == 0, result.output
    assert "2 rows labelled by bartscore" in result.output
    read = quality_table.read(str(output))
    assert read.prompts == ["Name the largest ocean.", "Translate.\n\nHund"]
    assert [list(values) for values in read.small] == [[-4.5], [-0.5]]
    assert [list(values) for values in read.large] == [[-1.5], [-2.0]]
    assert (read.failed, read.metadata["small_model"], read.metadata["metric"]) == (1, NAMES["small"], "bartscore")
    kept = pl.read_parquet(tmp_path / "q.responses.parquet")
    assert kept["large_responses"].to_list() == [["The Pacific Ocean."], ["hound"], []]
    assert kept["reference"].to_list() == ["The Pacific.", "dog", "hi"]
    assert pl.read_parquet(output)["error"].to_list() == [None, None, "no bartscore of vicuna-13b-1.1"]


@pytest.mark.parametrize(
    ("lines", "score", "names", "sentence"),
    [
        (LINES, "bleurt", NAMES, "no line of .* has the score 'bleurt' of both models: .* bartscore, rougeL"),
        (LINES, "bartscore", {**NAMES, "small": "gpt"}, "it has the models flan-t5-xxl, other, vicuna"),
        (LINES, "bartscore", {"small": "a"}, "needs --large-model"),
        ([[1]], "bartscore", NAMES, "line 1 of .* has no instruction and candidates"),
        ([*LINES, {"instruction": 1}], "bartscore", NAMES, "line 4 of"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, lines: list[Any], score: str, names: dict[Any, str], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        import_mixinstruct(put(tmp_path / "x.jsonl", lines), str(tmp_path / "q.parquet"), score, names, False)


def test_a_file_of_another_kind_and_an_output_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{not json\n")
    with pytest.raises(InputError, match=r"line 1 of .* is not JSON"):
        import_mixinstruct(str(tmp_path / "x.jsonl"), str(tmp_path / "q.parquet"), "bartscore", NAMES, False)
    with pytest.raises(InputError, match="does not exist"):
        import_mixinstruct(str(tmp_path / "none.jsonl"), str(tmp_path / "q.parquet"), "bartscore", NAMES, False)
    file = put(tmp_path / "val.jsonl", LINES)
    import_mixinstruct(file, str(tmp_path / "q.parquet"), "bartscore", NAMES, False)
    with pytest.raises(InputError, match="is there already"):
        import_mixinstruct(file, str(tmp_path / "q.parquet"), "bartscore", NAMES, False)
