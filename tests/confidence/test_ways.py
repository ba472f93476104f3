"""`evaluate` on a table with signals: before, after and both at equal total cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from batchroute.cli import app
from batchroute.confidence.evaluate import figures
from batchroute.confidence.plans import Plan, curve
from batchroute.confidence.rows import PricedRows
from batchroute.confidence.ways import Ways
from tests.confidence.test_calibrate import table
from tests.support.tiny_models import tiny_router


def evaluate(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["evaluate", "--bootstrap", "100", *arguments])
    return result.exit_code, result.output if result.exception is None else f"{result.output}{result.exception}"


def rows(count: int, *, by_score: float, by_confidence: float, small_cost: float = 0.1) -> PricedRows:
    rng = np.random.default_rng(0)
    right = rng.random(count) < 0.5

    def seen(weight: float) -> np.ndarray:
        return (1 / (1 + np.exp(-(weight * (right - 0.5) + rng.normal(size=count))))).astype(np.float32)

    return PricedRows(
        small=right.astype(float),
        large=np.ones(count),
        confidence=seen(by_confidence),
        score=seen(by_score),
        small_cost=np.full(count, small_cost),
        signal_cost=np.zeros(count),
        large_cost=np.ones(count),
        group=np.arange(count),
    )


def test_all_ways_cost_the_same_and_auto_is_as_good_as_the_better() -> None:
    some = rows(600, by_score=1.0, by_confidence=3.0)
    ways, costs = figures(some, 100, seed=0)
    assert costs == pytest.approx({"10": 91.0, "20": 82.0, "40": 64.0, "60": 46.0})
    for share, cost in costs.items():
        for name in ("before", "after"):
            known = curve(some, Plan(name)).drop_at(cost / 100)[0]
            assert ways[name].drop[share].value == pytest.approx(known)
        better = min(ways[name].drop[share].value or 0.0 for name in ("before", "after"))
        assert (ways["auto"].drop[share].value or 0.0) <= better + 1.0
        perfect, random = (ways[name].drop[share].value or 0.0 for name in ("perfect", "random"))
        assert perfect <= better <= random
    assert ways["before"].difference["40"].value == 0.0
    assert (ways["after"].difference["40"].high or 0.0) < 0.0
    assert ways["after"].stays["40"] == pytest.approx(46.0)
    assert ways["before"].stays["40"] == pytest.approx(40.0)


def test_a_way_that_costs_more_in_any_case_has_no_figure() -> None:
    some = rows(200, by_score=1.0, by_confidence=3.0)
    dear = PricedRows(**{**{name: getattr(some, name) for name in some.__slots__}, "signal_cost": np.full(200, 0.6)})
    ways, _ = figures(dear, 100, seed=0)
    assert ways["after"].drop["20"].value is not None
    assert ways["after"].drop["60"].value is None
    assert ways["after"].stays["60"] is None
    assert ways["before"].drop["60"].value is not None


def test_figures_and_plot_without_a_router(tmp_path: Path) -> None:
    code, output = evaluate("--quality-table", table(tmp_path), "--output", str(tmp_path / "e"))
    assert code == 0, output
    ways = Ways.model_validate_json((tmp_path / "e" / "ways.json").read_text())
    assert set(ways.ways) == {"after", "auto", "random", "perfect"}
    assert (ways.answers, ways.prompts, ways.signals) == (600, 300, ["logprob_low"])
    assert (ways.ways["after"].difference["40"].high or 0.0) < 0.0
    assert ways.choices["40"].startswith("after: at 64%")
    assert {path.name for path in (tmp_path / "e").iterdir()} == {"ways.json", "ways.png", "ways.svg"}
    assert "against random" in output


def test_with_a_router_both_files_are_there_and_a_calibration_of_other_rows_is_used(tmp_path: Path) -> None:
    router = str(tiny_router(tmp_path / "router"))
    other = tmp_path / "other"
    other.mkdir()
    CliRunner().invoke(app, ["calibrate", "--quality-table", table(other, rows=200), "--router", router])
    code, output = evaluate("--quality-table", table(tmp_path), "--router", router, "--output", str(tmp_path / "e"))
    assert code == 0, output
    ways = json.loads((tmp_path / "e" / "ways.json").read_text())
    assert ways["confidence"] == "fitted to another table"
    assert list(ways["ways"]) == ["before", "after", "both", "auto", "random", "perfect"]
    assert (tmp_path / "e" / "evaluation.json").exists()
    assert "against before" in output


def test_the_job_s_prices_need_tokens(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "input: {uri: in.parquet, id: id}\noutput: {uri: out}\npolicy: {small_share: 50%, decide: after}\n"
        "models:\n  small: {backend: echo, price: {input: 1, output: 1}}\n"
        "  large: {backend: echo, price: {input: 9, output: 9}}\n"
    )
    arguments = ["--output", str(tmp_path / "e"), "--job", str(job)]
    code, output = evaluate("--quality-table", table(tmp_path), *arguments)
    assert code != 0
    assert "no tokens of the small model" in output
    tokens: dict[str, Any] = {f"{side}_input_tokens": [10] * 300 for side in ("small", "large")}
    tokens |= {"small_output_tokens": [[5, 5]] * 300, "large_output_tokens": [[5]] * 300}
    code, output = evaluate("--quality-table", table(tmp_path, **tokens), *arguments)
    assert code == 0, output
    assert json.loads((tmp_path / "e" / "ways.json").read_text())["costs"]["small"] == pytest.approx(100 / 9)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--compare", "other"], "--compare and --second-table are about routers"),
        (["--set", "policy.threshold=1"], "--set overrides a setting of the job"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    code, output = evaluate("--quality-table", table(tmp_path), "--output", str(tmp_path / "e"), *arguments)
    assert code != 0
    assert sentence in output
