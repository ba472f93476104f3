from __future__ import annotations

import numpy as np
import pytest

from batchroute.router.training.verdict import Verdict
from batchroute.tables.quality_table import QualityTable


def table(small: list[list[float]], large: list[list[float]]) -> QualityTable:
    prompts = [f"prompt {row}" for row in range(len(small))]
    columns = [[np.array(quality) for quality in side] for side in (small, large)]
    return QualityTable("table", "", prompts, *columns, None, None, None, {})


def test_its_figures_are_those_of_the_rows() -> None:
    verdict = Verdict.on(table([[1.0], [1.0], [0.0], [0.0]], [[1.0], [0.5], [1.0], [0.5]]))
    assert (verdict.small_mean, verdict.large_mean, verdict.gap_mean) == (0.5, 0.75, -0.25)
    assert (verdict.at_least_as_good, verdict.better) == (0.5, 0.25)
    # By gap: +0.5, 0, −0.5, −1. The first three lose nothing together; a part of the fourth loses 1 %.
    assert (verdict.oracle_share, verdict.oracle_share_1) == (0.75, 0.757)
    assert verdict.oracle_gain == pytest.approx(100 * 0.125 / 0.75)
    assert verdict.all_small_drop == pytest.approx(100 / 3)
    # 1.6 rows: the first one gains 0.5, and the second one loses nothing.
    assert verdict.oracle_drop_40 == pytest.approx(-100 * 0.125 / 0.75)
    assert verdict.random_drop_40 == pytest.approx(0.5 * 100 / 3, abs=4)
    assert verdict.noise is None
    assert verdict.kind == "routing can pay"
    assert any("hold luck too" in sentence for sentence in verdict.sentences())


def test_a_small_model_that_is_as_good_on_average_is_enough() -> None:
    verdict = Verdict.on(table([[1.0], [0.0]] * 20, [[0.0], [1.0]] * 20))
    assert verdict.kind == "the small model is enough"
    assert "use it for all rows" in verdict.sentences()[-1]


def test_a_small_model_that_hardly_ever_does_needs_the_large_one() -> None:
    verdict = Verdict.on(table([[1.0]] * 2 + [[0.0]] * 38, [[1.0]] * 40))
    assert verdict.oracle_share == 0.05
    assert verdict.kind == "the large model is needed"
    assert "fewer than 10% of the rows" in verdict.sentences()[-1]


def test_a_gap_of_sampling_noise_is_nothing_to_learn() -> None:
    rng = np.random.default_rng(0)
    noisy = table(rng.normal(-0.1, 1, (400, 5)).tolist(), rng.normal(5, 1, (400, 5)).tolist())
    # Every prompt has the same gap, so all that varies is the samples.
    assert Verdict.on(noisy).noise == pytest.approx(1.0, abs=0.15)
    easy = np.repeat([0.0, -4.0], 200)[:, None]
    clear = table((rng.normal(5, 0.5, (400, 5)) + easy).tolist(), rng.normal(5, 0.5, (400, 5)).tolist())
    # 0.5²/5 + 0.5²/5 of sampling next to 2² between the two kinds of prompts.
    assert Verdict.on(clear).noise == pytest.approx(0.1 / 4.1, rel=0.2)


def test_a_gap_that_hardly_varies_leaves_nothing_to_choose() -> None:
    small = [[0.990], [0.994]] * 20
    verdict = Verdict.on(table(small, [[1.0]] * 40))
    # 16 of 40 rows that lose 0.006 each, against 16 that lose 0.008.
    assert verdict.oracle_drop_40 == pytest.approx(40 * 0.006)
    assert verdict.random_drop_40 == pytest.approx(40 * 0.008)
    assert verdict.oracle_share_1 == 1.0
    assert verdict.kind == "the gap hardly varies"
    assert "hardly better than a random share" in verdict.sentences()[-1]
    assert Verdict.on(table([[0.98]] * 40, [[1.0]] * 40)).kind == "the gap hardly varies"


def test_noise_is_measured_on_the_rows_with_several_samples_of_both_models() -> None:
    rng = np.random.default_rng(0)
    several = rng.normal(np.repeat([0.0, -4.0], 100)[:, None], 1, (200, 4)).tolist()
    one = [[0.0]] * 100
    noise = Verdict.on(table(several + one, rng.normal(5, 1, (200, 4)).tolist() + one)).noise
    assert noise == pytest.approx(0.5 / 4.5, rel=0.2)
    assert Verdict.on(table(several[:90] + one, rng.normal(5, 1, (90, 4)).tolist() + one)).noise is None


def test_noise_alone_is_named() -> None:
    rng = np.random.default_rng(1)
    small, large = rng.normal(0.9, 1, (2000, 4)), rng.normal(1.0, 1, (2000, 4))
    verdict = Verdict.on(table(small.tolist(), large.tolist()))
    assert verdict.kind == "the gap is noise"
    assert "routing is not worth it" in verdict.sentences()[-1]
