"""Evaluation end to end: a tiny real router on a table in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from batchroute.errors import InputError
from batchroute.router.evaluation.console import print_evaluation
from batchroute.router.evaluation.evaluate import evaluate, write
from batchroute.router.evaluation.scorecard import Evaluation
from batchroute.router.model import Router
from batchroute.router.notes import prompt_digest
from batchroute.router.scoring import score
from tests.support.tiny_models import tiny_router

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_router(tmp_path_factory.mktemp("a") / "router"))


def write_table(folder: Path, rows: int = 120, seed: int = 0, name: str = "t", **metadata: str) -> str:
    rng = np.random.default_rng(seed)
    prompts = [f"what is {row} plus {row}" for row in range(rows)]
    small, large = rng.random((rows, 3)), 0.3 + rng.random((rows, 2))
    columns = {"prompt": prompts, "small_quality": small.tolist(), "large_quality": large.tolist()}
    path = folder / f"{name}.parquet"
    metadata = {"small_model": "s", "large_model": "l", "metric": "m", **metadata}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return str(path)


def run(table: str, *routers: str, **more: Any) -> Evaluation:
    return evaluate(table, routers, CPU, **{"resamples": 100, **more})


def test_the_figures_are_those_of_the_routers_scores(tmp_path: Path, router: str) -> None:
    table = write_table(tmp_path)
    evaluation = run(table, router)
    rows = pq.read_table(table).to_pylist()
    scores = score(Router.load(router, CPU), [row["prompt"] for row in rows]).scores
    small, large = (np.array([np.mean(row[f"{side}_quality"]) for row in rows]) for side in ("small", "large"))
    (figures,) = evaluation.routers
    for share in ("10", "20", "40"):
        estimate = figures.drop[share]
        routed = np.argsort(-scores)[: 120 * int(share) // 100]
        assert estimate.value == pytest.approx(100 * (large - small)[routed].sum() / large.sum(), abs=1e-6)
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high
    assert figures.pearson.value == pytest.approx(np.corrcoef(scores, small - large)[0, 1], abs=1e-5)
    assert (evaluation.rows, evaluation.left_out, evaluation.models) == (120, 0, {"small": "s", "large": "l"})
    assert figures.latency.prompts_per_second > 0
    assert figures.latency.single_prompt_ms > 0
    assert figures.label is None


def test_reliability_holds_scores_against_the_label(tmp_path: Path, router: str) -> None:
    table = write_table(tmp_path)
    rows = pq.read_table(table).to_pylist()
    scores = score(Router.load(router, CPU), [row["prompt"] for row in rows]).scores
    wins = np.array([np.mean([s >= q for s in r["small_quality"] for q in r["large_quality"]]) for r in rows])
    reliability = run(table, router).routers[0].reliability
    assert (reliability.label, reliability.rows) == ("prob", [12] * 10)
    order = np.argsort(scores, kind="stable")
    assert reliability.mean_score[0] == pytest.approx(scores[order[:12]].mean())
    assert reliability.mean_label[9] == pytest.approx(wins[order[-12:]].mean())
    expected = np.mean([abs(scores[part].mean() - wins[part].mean()) for part in np.split(order, 10)])
    assert reliability.error == pytest.approx(expected, abs=1e-6)


def test_rows_that_a_router_has_seen_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    router = tiny_router(tmp_path / "router")
    table = write_table(tmp_path)
    seen = " ".join(prompt_digest(row["prompt"]) for row in pq.read_table(table).to_pylist()[:60])
    notes = {"max_length": 32, "label": "gap", "t_star": None, "gap_low": -1.0, "gap_high": 1.0}
    (router / "router.json").write_text(json.dumps({**notes, "train_prompts": seen}))
    evaluation = run(table, str(router))
    assert (evaluation.rows, evaluation.left_out, evaluation.seen_rows_included) == (60, 60, False)
    assert (evaluation.routers[0].label, evaluation.routers[0].reliability.label) == ("gap", "gap")
    whole = run(table, str(router), all_rows=True)
    assert (whole.rows, whole.seen_rows_included) == (120, True)
    with pytest.raises(InputError, match=r"20 of 80 rows .* are new to"):
        run(write_table(tmp_path, rows=80), str(router))


def test_a_router_against_itself_differs_by_nothing_and_against_another_by_the_same_resamples(
    tmp_path: Path, router: str
) -> None:
    other = str(tiny_router(tmp_path / "other", seed=7))
    evaluation = run(write_table(tmp_path), router, router, other)
    same, different = evaluation.comparisons
    for share in ("10", "20", "40"):
        assert (same.difference[share].value, same.difference[share].low, same.better_in[share]) == (0.0, 0.0, 0.0)
        first, third = evaluation.routers[0].drop[share].value, evaluation.routers[2].drop[share].value
        assert first is not None
        assert third is not None
        assert different.difference[share].value == pytest.approx(third - first)
    assert evaluation.routers[0].drop == evaluation.routers[1].drop != evaluation.routers[2].drop


def test_two_metrics_that_agree_correlate(tmp_path: Path, router: str) -> None:
    table = write_table(tmp_path)
    same = run(table, router, second_table=write_table(tmp_path, name="same", metric="n")).agreement
    assert same is not None
    assert (same.prompts, same.metric) == (120, "n")
    assert same.pearson.value == pytest.approx(1.0)
    other = run(table, router, second_table=write_table(tmp_path, seed=5, name="other")).agreement
    assert other is not None
    assert other.spearman.value is not None
    assert abs(other.spearman.value) < 0.3
    few = write_table(tmp_path, rows=20, name="few")
    with pytest.raises(InputError, match="share 20 prompts: at least 50"):
        run(table, router, second_table=few)


def test_the_files_are_whole_readable_and_the_same_each_time(tmp_path: Path, router: str) -> None:
    evaluation = run(write_table(tmp_path), router)
    for name in ("a", "b"):
        write(evaluation, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["curve.png", "curve.svg", "evaluation.json"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert Evaluation.model_validate_json((tmp_path / "a" / "evaluation.json").read_text()) == evaluation
    assert (tmp_path / "a" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(tmp_path / "a" / "curve.svg").getroot().tag.endswith("svg")
    with pytest.raises(InputError, match="is not empty: choose another directory, or pass --overwrite"):
        write(evaluation, tmp_path / "a")
    write(evaluation, tmp_path / "a", overwrite=True)


def test_the_console_shows_every_figure(tmp_path: Path, router: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(run(write_table(tmp_path), router))
    shown = capsys.readouterr().out
    for words in ("quality drop at 40 %", "at random", "perfect routing", "APGR", "CPT 80", "Spearman", "120 rows"):
        assert words in shown
    print_evaluation(run(write_table(tmp_path), router, router))
    assert "lower in 0% of the resamples" in capsys.readouterr().out


def test_a_large_model_that_is_no_better_has_no_apgr(tmp_path: Path, router: str) -> None:
    table = pq.read_table(write_table(tmp_path))
    swapped = table.rename_columns(["prompt", "large_quality", "small_quality"])
    pq.write_table(swapped, tmp_path / "swapped.parquet")
    figures = run(str(tmp_path / "swapped.parquet"), router).routers[0]
    assert figures.apgr.value is figures.cpt_50.value is None
    assert figures.drop["40"].value is not None


def test_mistakes_are_one_sentence(tmp_path: Path, router: str) -> None:
    with pytest.raises(InputError, match="40 of 40 rows"):
        run(write_table(tmp_path, rows=40), router)
    zero = pa.table(
        {"prompt": [f"{i}" for i in range(60)], "small_quality": [[1.0]] * 60, "large_quality": [[0.0]] * 60}
    )
    pq.write_table(zero, tmp_path / "zero.parquet")
    with pytest.raises(InputError, match=r"mean quality in .* is 0"):
        run(str(tmp_path / "zero.parquet"), router)
