from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from batchroute.errors import InputError
from batchroute.policy.settings import Policy
from batchroute.router.calibration import calibrate as calibrating
from batchroute.router.calibration.drops import points_of
from batchroute.router.calibration.points import Calibration, Point
from batchroute.router.notes import prompt_digest
from tests.support.tiny_models import tiny_router

Floats = NDArray[np.float64]


def simulated(rows: int, seed: int) -> tuple[NDArray[np.float32], Floats, Floats]:
    """Scores, and right-or-wrong qualities of both models; the small one is worse where the score is low."""
    rng = np.random.default_rng(seed)
    scores = rng.random(rows).astype(np.float32)
    large = (rng.random(rows) < 0.7).astype(np.float64)
    small = np.where(rng.random(rows) < 0.85 * scores, large, (rng.random(rows) < 0.3).astype(np.float64))
    return scores, small, large


def points(scores: NDArray[np.float32], small: Floats, large: Floats, resamples: int = 2_000) -> list[Point]:
    prompts = [f"prompt {row}" for row in range(len(scores))]
    return points_of(scores, small, large, prompts, seed=0, resamples=resamples)


def made_of(measured: list[Point]) -> Calibration:
    return Calibration(
        table_sha256="",
        rows=0,
        prompts=0,
        models={},
        metric=None,
        max_length=128,
        confidence=0.95,
        points=measured,
    )


def point(threshold: float, drop: float, bound: float) -> Point:
    return Point(
        threshold=threshold, cost_advantage=1 - threshold, drop=drop, drop_low=drop, drop_high=drop, bound=bound
    )


def test_drops_are_those_of_the_rows_at_or_above_the_threshold() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.1], np.float32)
    small, large = np.array([1.0, 0.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.5, 1.5])
    measured = points(scores, small, large)
    assert [p.threshold for p in measured] == pytest.approx([0.9, 0.8, 0.1])
    assert [p.cost_advantage for p in measured] == [0.25, 0.75, 1.0]
    assert [p.drop for p in measured] == pytest.approx([0.0, 25.0, 62.5])


def test_qualities_may_be_negative() -> None:
    """As BARTScore's are: the drop is a share of the absolute quality."""
    measured = points(np.array([0.9, 0.1], np.float32), np.array([-2.5, -3.0]), np.array([-2.0, -2.0]))
    assert [p.drop for p in measured] == pytest.approx([12.5, 37.5])


def test_the_bound_is_students_for_a_mean() -> None:
    """With a constant large quality the drop is a plain mean, and its bound is the textbook's."""
    rng = np.random.default_rng(0)
    losses = rng.normal(size=20)
    last = points(np.full(20, 0.5, np.float32), 10 - losses, np.full(20, 10.0))[-1]
    # 1.7291 is the 95 % quantile of Student's distribution with 19 degrees of freedom.
    expected = losses.mean() + 1.7291 * losses.std(ddof=1) / np.sqrt(20)
    assert last.bound == pytest.approx(10 * expected, rel=1e-3)


def test_a_few_rows_without_a_loss_prove_little() -> None:
    scores = np.linspace(1, 0, 100).astype(np.float32)
    large, small = np.ones(100), np.repeat([1.0, 0.0], 50)
    first = points(scores, small, large)[0]
    # Of the one row that is routed and three more, one and a half would have lost 1, as half of all rows do.
    assert first.drop == 0.0
    assert first.bound == pytest.approx(100 * 1.6604 * np.sqrt(100 / 99 * 1.5 / 4) / 100, rel=1e-3)


def test_intervals_hold_the_drop_and_shrink_with_more_rows() -> None:
    few, many = points(*simulated(200, 1)), points(*simulated(5000, 1))
    assert all(p.drop_low <= p.drop <= p.drop_high for p in [*few, *many])
    assert all(p.drop <= p.bound for p in [*few, *many])
    assert many[-1].drop_high - many[-1].drop_low < 0.4 * (few[-1].drop_high - few[-1].drop_low)


def test_copies_of_a_prompt_make_no_bound_tighter() -> None:
    scores, small, large = simulated(100, 2)
    prompts = [f"prompt {row}" for row in range(100)]
    once = points_of(scores, small, large, prompts, seed=0)
    thrice = points_of(np.tile(scores, 3), np.tile(small, 3), np.tile(large, 3), prompts * 3, seed=0)
    bounds = {p.threshold: p.bound for p in once}
    shared = [p for p in thrice if p.threshold in bounds]
    assert len(shared) > 50
    assert [p.bound for p in shared] == pytest.approx([bounds[p.threshold] for p in shared])


def test_a_large_model_of_quality_zero_is_one_sentence() -> None:
    with pytest.raises(InputError, match="mean quality is 0"):
        points(np.array([0.9, 0.1], np.float32), np.zeros(2), np.zeros(2))


def test_bounded_stops_at_the_first_bound_above_the_limit_and_empirical_does_not() -> None:
    calibrated = made_of([point(0.9, 0.0, 0.5), point(0.7, 0.5, 1.5), point(0.5, 0.4, 0.9), point(0.3, 2.0, 3.0)])
    bounded, empirical = calibrated.within(1.0, "bounded"), calibrated.within(1.0, "empirical")
    assert bounded is not None
    assert empirical is not None
    assert (bounded.threshold, empirical.threshold) == (0.9, 0.5)
    assert calibrated.within(0.4, "bounded") is None
    assert calibrated.within(3.0, "bounded") == calibrated.points[-1]


def test_the_bounded_rule_keeps_its_promise_and_the_empirical_one_does_not() -> None:
    """Against the truth, a sample of 200,000 rows, over 200 calibrations on 500 rows."""
    truth_scores, truth_small, truth_large = simulated(200_000, seed=99)
    limit = 5.0

    def breaks(chosen: Point | None) -> bool:
        if chosen is None:
            return False
        routed = np.where(truth_scores >= np.float32(chosen.threshold), truth_small, truth_large)
        return bool(100 * (truth_large.mean() - routed.mean()) / truth_large.mean() > limit)

    # One resample: no rule reads the intervals.
    calibrations = [made_of(points(*simulated(500, seed), resamples=1)) for seed in range(200)]
    bounded = [c.within(limit, "bounded") for c in calibrations]
    assert np.mean([breaks(chosen) for chosen in bounded]) <= 0.08
    assert np.mean([chosen is not None and chosen.cost_advantage > 0.1 for chosen in bounded]) > 0.9
    assert np.mean([breaks(c.within(limit, "empirical")) for c in calibrations]) > 0.3


# On a router and a table in files.


@pytest.fixture
def router(tmp_path: Path) -> Path:
    return tiny_router(tmp_path / "router")


def write_table(path: Path, rows: int, seed: int = 0, **metadata: str) -> list[str]:
    _, small, large = simulated(rows, seed)
    prompts = [f"what is {row} plus {row}" for row in range(rows)]
    table = pa.table({"prompt": prompts, "small_quality": [[q] for q in small], "large_quality": [[q] for q in large]})
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return prompts


def note(router: Path, **values: object) -> None:
    (router / "router.json").write_text(json.dumps({"max_length": 32, **values}))


def calibrate(table: Path, router: Path) -> Calibration:
    return calibrating.calibrate(str(table), str(router), torch.device("cpu"))


def test_the_calibration_is_in_the_folder_and_is_replaced(router: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", 120, small_model="s", large_model="l", metric="m")
    first = calibrate(tmp_path / "a.parquet", router)
    assert Calibration.of(str(router)) == first
    assert (first.rows, first.models, first.metric) == (120, {"small": "s", "large": "l"}, "m")
    assert first.points[-1].cost_advantage == 1.0
    write_table(tmp_path / "b.parquet", 60, seed=1)
    assert Calibration.of(str(router)) != calibrate(tmp_path / "b.parquet", router) == Calibration.of(str(router))
    assert not [file.name for file in router.iterdir() if file.name.startswith(".")]


def test_rows_that_were_trained_on_or_chosen_by_are_left_out(router: Path, tmp_path: Path) -> None:
    prompts = write_table(tmp_path / "t.parquet", 120)
    digests = [prompt_digest(prompt) for prompt in prompts]
    note(router, train_prompts=" ".join(digests[:40]), validation_prompts=" ".join(digests[40:60]))
    assert calibrate(tmp_path / "t.parquet", router).rows == 60
    note(router, train_prompts=" ".join(digests[:71]))
    with pytest.raises(InputError, match=r"was trained on 71 of 120 rows .* which leaves 49"):
        calibrate(tmp_path / "t.parquet", router)


def test_a_table_of_another_pair_is_refused(router: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", 60, small_model="s", large_model="other")
    note(router, models={"small": "s", "large": "l"})
    with pytest.raises(InputError, match="its large model is other, the router's l"):
        calibrate(tmp_path / "t.parquet", router)


def test_a_router_without_calibration_or_with_a_damaged_one_is_one_sentence(router: Path) -> None:
    with pytest.raises(InputError, match="is not calibrated: run 'batchroute calibrate"):
        Calibration.of(str(router))
    (router / "calibration.json").write_text('{"rows": 1}')
    with pytest.raises(InputError, match="damaged at table_sha256"):
        Calibration.of(str(router))


def test_a_policy_takes_the_rule_that_it_names() -> None:
    calibrated = made_of([point(0.9, 0.0, 0.5), point(0.7, 0.5, 1.5)])
    scores = np.array([0.95, 0.8, 0.1], np.float32)
    for rule, small in ((None, [True, False, False]), ("empirical", [True, True, False])):
        policy = Policy.model_validate({"max_quality_drop": "1%", "rule": rule})
        cutoff = policy.cutoff(scores, 3, calibrated)
        assert cutoff.small(scores, np.arange(3)).tolist() == small
    none = Policy.model_validate({"max_quality_drop": "0.1%"}).cutoff(scores, 3, calibrated)
    assert not none.small(scores, np.arange(3)).any()


def test_a_router_that_gives_no_number_is_one_sentence(router: Path, tmp_path: Path) -> None:
    """Else the calibration would hold thresholds that cannot be read back."""
    write_table(tmp_path / "t.parquet", 60)
    weights = load_file(router / "model.safetensors")
    weights["classifier.bias"].fill_(float("nan"))
    save_file(weights, router / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="gives no number for some prompts"):
        calibrate(tmp_path / "t.parquet", router)
    assert not (router / "calibration.json").exists()
