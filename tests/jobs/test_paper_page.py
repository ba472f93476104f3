"""The page of the paper's miniature, from figures that are made up, without a model."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

PAPER = Path(__file__).parents[2] / "jobs" / "paper"
PAIRS = "small-gap", "medium-gap", "large-gap"
SHARES = "10", "20", "40"
Folder = Callable[..., Path]


def estimate(value: float | None, half: float = 1.0) -> dict[str, float | None]:
    return {"value": value, "low": None, "high": None} if value is None else {
        "value": value, "low": value - half, "high": value + half,
    }  # fmt: skip


def evaluation(drop: float, labels: tuple[str, ...]) -> dict[str, Any]:
    by_share = {share: estimate(drop) for share in SHARES}
    router = {
        "drop": by_share,
        "gap_difference": {share: estimate(0.5, 0.1) for share in SHARES},
        "spearman": estimate(0.3, 0.1),
        "latency": {"prompts_per_second": 100.0, "single_prompt_ms": 20.0},
    }
    return {
        "rows": 50,
        "random": by_share,
        "oracle": by_share,
        "routers": [{"router": f"build/{label}", **router} for label in labels],
        "comparisons": [
            {"router": f"build/{label}", "difference": {share: estimate(-3.0) for share in SHARES}}
            for label in labels[1:]
        ],
        "agreement": {"pearson": estimate(0.8, 0.1), "spearman": estimate(0.7, 0.1)},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def make(drops: tuple[float, float, float] = (1.0, 5.0, 20.0)) -> Path:
        columns: dict[str, Any] = {"split": ["train", "test"]}
        sampled = {"samples": 2, "temperature": {"small": 0.7}, "max_new_tokens": {"small": 24}}
        metadata = {"metric": "contains", "sampling": json.dumps(sampled)}
        for model in ("small", "middle", "large"):
            columns |= {
                f"{model}_quality": [[0.0, 1.0], [1.0, 1.0]],
                f"{model}_input_tokens": [10, 30],
                f"{model}_output_tokens": [[1, 2], [3, 4]],
            }
            metadata |= {f"{model}_model": f"the-{model}", f"{model}_seconds_per_token": "0.01"}
        arrow = pl.DataFrame(columns).to_arrow().replace_schema_metadata(metadata)
        pq.write_table(arrow, tmp_path / "labelled.parquet")
        rule = {"limit": 1.0, "broken": 0.45, "cost_advantage": 0.2}
        rules = [rule | {"rule": "empirical"}, rule | {"rule": "bounded", "broken": 0.01}]
        for pair, drop in zip(PAIRS, drops, strict=True):
            for by, labels in (("chrf", ("det", "trans", "gap")), ("contains", ("gap",))):
                (tmp_path / pair / f"by-{by}").mkdir(parents=True)
                tree = json.dumps(evaluation(drop, labels))
                (tmp_path / pair / f"by-{by}" / "evaluation.json").write_text(tree)
                (tmp_path / pair / f"by-{by}" / "curve.png").write_bytes(b"a picture")
            found = {"rows": 50, "calibration_rows": 25, "splits": 200, "rules": rules}
            (tmp_path / pair / "rules.txt").write_text("a table for people\n" + json.dumps(found))
            lines = ["50 prompts", "gaps of both pairs on 50 shared prompts: Pearson 0.8, Spearman 0.8; the paper's"]
            lines.append("quality drop at 40 % cost advantage: 1.5 % (1.0 to 2.0 %), at random 9.0 %")
            (tmp_path / pair / "transfer.txt").write_text(
                "\n".join([*lines, "The router serves the new pair: use it."])
            )
        return tmp_path

    return make


def page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(PAPER))
    monkeypatch.setattr(sys, "argv", ["page.py", str(folder), "--metric", "chrf", "--second", "contains"])
    runpy.run_path(str(PAPER / "page.py"), run_name="__main__")
    return (folder / "page.md").read_text(encoding="utf-8")


def test_the_page_has_the_papers_tables_beside_the_figures(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    made = folder()
    text = page(made, monkeypatch)
    trans = "20.0 (19.0 to 21.0) | 20.0 (19.0 to 21.0) | 20.0 (19.0 to 21.0) | 2.1 / 4.7 / 10.3 |"
    assert f"| large-gap | r_trans | {trans}" in text
    assert "| small-gap | 1 % | 45.0% of the splits; 20.0% | 1.0% of the splits; 20.0% |" in text
    # 2 samples of prompts of 10 and 30 tokens are read; 10 tokens are written; a token takes 0.01 s.
    assert "| small | the-small | 0.750 (0.260 to 1.240) | 2.5 | 100 | 11 |" in text
    assert "2 answers of each model, at temperature 0.7, of at most 24 tokens." in text
    assert "of the small model's 80 tokens of prompts it read 40" in text
    assert "| small | 0.2250 |  | 0.46 (FLAN-T5 800m) |" in text
    for pair in PAIRS:
        assert f"({pair}.png)" in text
        assert (made / f"{pair}.png").read_bytes() == b"a picture"
    assert "A backlog" not in text
    assert "Deciding after" not in text


def test_the_page_says_what_agrees_with_the_paper(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page(folder(), monkeypatch)
    verdicts = {line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip("| ") for line in text.splitlines()}
    assert verdicts["routers send rows of a smaller gap to the small model (section 4.3)"] == "yes"
    assert verdicts["the wider the pair's gap, the more a cost advantage of 40 % costs (Table 1)"] == "yes"
    assert verdicts["of the large gap r_trans loses less than r_det: 10.3 against 13.8 % (Table 1)"] == "yes"
    transfer = [line for line in text.splitlines() if line.startswith("| a router serves another pair")]
    assert transfer[0].endswith("drop at 40 %: 1.5 with it, 1.0 (0.0 to 2.0) with the pair's own | yes |")


@pytest.mark.parametrize(("drops", "verdict"), [((20.0, 5.0, 1.0), "no"), ((1.0, 1.5, 2.0), "cannot tell")])
def test_the_page_says_what_does_not_agree(
    drops: tuple[float, float, float], verdict: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = [line for line in page(folder(drops), monkeypatch).splitlines() if line.startswith("| the wider")]
    assert line.endswith(f"| {verdict} |")


def test_the_drop_of_a_backlog_has_an_interval() -> None:
    drop_of = runpy.run_path(str(PAPER / "figures.py"))["drop_of"]
    large = np.tile([1.0, 0.5], 50)
    assert drop_of(large, large) == {"value": 0.0, "low": 0.0, "high": 0.0}
    lost = drop_of(large, np.where(np.arange(100) < 20, 0.0, large))
    assert lost["value"] == pytest.approx(20.0)
    assert 10 < lost["low"] < 20 < lost["high"] < 30
