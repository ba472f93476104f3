"""The tables of the paper's miniature: each model is asked once, and prompts that have answers are not asked again."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from batchroute.commands.label.options import LabelOptions
from batchroute.commands.label.pipeline import label
from batchroute.progress import PlainProgress

SCRIPT = Path(__file__).parents[2] / "jobs" / "paper" / "tables.py"
ROWS = 40


def tables(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def ask(prompts: Path, output: Path, small: str, large: str, **more: Any) -> None:
    pair = {side: {"backend": "echo", "model": name} for side, name in (("small", small), ("large", large))}
    given = {"prompts": str(prompts), "output": str(output), "metric": {"name": "exact_match"}, "models": pair}
    options = LabelOptions.model_validate(given | {"samples": 2, "id": "id", "keep_responses": True} | more)
    label(options, PlainProgress(io.StringIO()))


def asked(folder: Path, prompts: Path) -> None:
    ask(prompts, folder / "first.parquet", "S", "L")
    recorded = {"large": "large"}
    ask(folder / "first.responses.parquet", folder / "second.parquet", "M", "L", recorded=recorded)


def test_answers_grow_by_the_prompts_that_have_none(tmp_path: Path) -> None:
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
        done = tables("missing", tmp_path / "prompts.parquet", known, folder / "asked.parquet", 24)
        assert done.returncode == 0, done.stderr
        given = pl.read_parquet(folder / "asked.parquet")
        assert len(given) == rows
        assert set(given["split"]) == set(splits)
        asked(folder, folder / "asked.parquet")
        output = folder / "answers.parquet"
        done = tables("answers", folder / "first.parquet", folder / "second.parquet", known, output)
        assert done.returncode == 0, done.stderr
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

    (tmp_path / "parts").mkdir()
    done = tables("parts", known, tmp_path / "parts")
    assert done.returncode == 0, done.stderr
    labelled, backlog = (pl.read_parquet(tmp_path / "parts" / f"{name}.parquet") for name in ("labelled", "backlog"))
    assert set(backlog["split"]) == {"test"}
    assert len(labelled) + len(backlog) == ROWS
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
    assert tables("answers", first, second, tmp_path / "none.parquet", known).returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    ask(tmp_path / "prompts.parquet", other / "first.parquet", "X", "L")
    ask(other / "first.responses.parquet", other / "second.parquet", "M", "L", recorded={"large": "large"})
    done = tables("answers", other / "first.parquet", other / "second.parquet", known, other / "answers.parquet")
    assert done.returncode == 1
    assert "was made with another small_model" in done.stderr
