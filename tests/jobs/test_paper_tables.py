"""The tables of the paper's miniature: each model is asked once, and prompts that have answers are not asked again."""

from __future__ import annotations

import io
import runpy
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from batchroute.commands.label.options import LabelOptions
from batchroute.commands.label.pipeline import label
from batchroute.progress import PlainProgress

SCRIPT = Path(__file__).parents[2] / "jobs" / "paper" / "tables.py"
ROWS = 40


def tables(*arguments: object) -> None:
    runpy.run_path(str(SCRIPT))["main"]([str(argument) for argument in arguments])


def ask(prompts: Path, output: Path, small: str, large: str, **more: Any) -> None:
    pair = {side: {"backend": "echo", "model": name} for side, name in (("small", small), ("large", large))}
    given = {"prompts": str(prompts), "output": str(output), "metric": {"name": "exact_match"}, "models": pair}
    options = LabelOptions.model_validate(given | {"samples": 2, "id": "id", "keep_responses": True} | more)
    label(options, PlainProgress(io.StringIO()))


def asked(folder: Path, prompts: Path) -> None:
    ask(prompts, folder / "first.parquet", "S", "L")
    recorded = {"large": "large"}
    ask(folder / "first.responses.parquet", folder / "second.parquet", "M", "L", recorded=recorded)


def test_answers_grow_by_the_prompts_that_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = ["train", "train", "validation", "test"]
    frame = pl.DataFrame(
        {
            "id": [f"p{row}" for row in range(ROWS)],
            "task": ["a"] * ROWS,
            "prompt": [f"say {row}" for row in range(ROWS)],
            "reference": [f"say {row}" if row % 2 else "no" for row in range(ROWS)],
            "split": splits * (ROWS // len(splits)),
        }
    )
    frame.write_parquet(tmp_path / "prompts.parquet")
    known = tmp_path / "none.parquet"
    for part, rows in (("one", 24), ("two", ROWS - 24)):
        folder = tmp_path / part
        folder.mkdir()
        tables("missing", tmp_path / "prompts.parquet", known, folder / "asked.parquet", 24)
        given = pl.read_parquet(folder / "asked.parquet")
        assert len(given) == rows
        assert set(given["split"]) == set(splits)
        asked(folder, folder / "asked.parquet")
        output = folder / "answers.parquet"
        tables("answers", folder / "first.parquet", folder / "second.parquet", known, output)
        known = output
    answers = pl.read_parquet(known)
    assert sorted(answers["id"]) == sorted(frame["id"])
    together = answers.join(frame, on="id", suffix="_asked")
    assert together["prompt"].equals(together["prompt_asked"])
    for model in ("small", "middle", "large"):
        assert together[f"{model}_responses"].list.first().equals(together["prompt"])
        right = (together["reference_asked"] != "no").cast(pl.Float32)
        assert together[f"{model}_quality"].list.mean().cast(pl.Float32).equals(right, check_names=False)
        assert together[f"{model}_logprob"].list.len().to_list() == [2] * ROWS
        assert (pq.read_schema(known).metadata or {})[f"{model}_model".encode()].decode() == model[0].upper()

    capsys.readouterr()
    tables("names", known)
    assert capsys.readouterr().out == "small S\nmiddle M\nlarge L\n"

    (tmp_path / "parts").mkdir()
    tables("parts", known, tmp_path / "parts")
    labelled, backlog = (pl.read_parquet(tmp_path / "parts" / f"{name}.parquet") for name in ("labelled", "backlog"))
    assert set(backlog["split"]) == {"test"}
    assert len(labelled) + len(backlog) == ROWS
    plain = pl.read_parquet(tmp_path / "parts" / "plain.parquet")
    assert plain.equals(labelled.select(plain.columns))
    assert set(labelled.columns) - set(plain.columns) == {
        f"{model}_{signal}" for model in ("small", "middle", "large") for signal in ("logprob", "logprob_low")
    }
    assert not set(labelled["id"]) & set(backlog["id"])


def test_answers_of_other_models_are_not_mixed(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "id": ["a", "b"],
            "task": ["t", "t"],
            "prompt": ["p", "q"],
            "reference": ["p", "q"],
            "split": ["train", "test"],
        }
    ).write_parquet(tmp_path / "prompts.parquet")
    asked(tmp_path, tmp_path / "prompts.parquet")
    known = tmp_path / "known.parquet"
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    tables("answers", first, second, tmp_path / "none.parquet", known)
    other = tmp_path / "other"
    other.mkdir()
    ask(tmp_path / "prompts.parquet", other / "first.parquet", "X", "L")
    ask(other / "first.responses.parquet", other / "second.parquet", "M", "L", recorded={"large": "large"})
    with pytest.raises(SystemExit, match="was made with another small_model"):
        tables("answers", other / "first.parquet", other / "second.parquet", known, other / "answers.parquet")


def test_natural_prompts_are_short_distinct_and_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [f"What follows {row}?" for row in range(40)]
    prompts += ["What follows 0?", "x" * 60, " ", "Who?", "Why?", "Which?"]
    references = [str(row + 1) for row in range(40)] + ["1", "a", "b", None, "y" * 100, "  "]
    table = pl.DataFrame({"id": range(len(prompts)), "prompt": prompts, "reference": references})
    table.write_parquet(tmp_path / "table.parquet")
    drawn = []
    for name in ("one", "two"):
        tables("natural", tmp_path / "table.parquet", tmp_path / name, 30, 50)
        assert capsys.readouterr().out == "30 of 40 rows with at most 50 characters\n"
        drawn.append(pl.read_parquet(tmp_path / name))
    assert drawn[0].equals(drawn[1])
    assert drawn[0]["prompt"].n_unique() == 30
    assert dict(drawn[0]["split"].value_counts().iter_rows()) == {"train": 15, "validation": 3, "test": 12}
