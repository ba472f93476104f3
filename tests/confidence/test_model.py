"""The confidence model: what it learns, what it does with unknown signals, and what cross-fitting keeps honest."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from batchroute.confidence.model import ConfidenceModel, _logistic, fit, unfitted
from batchroute.confidence.signals import Floats, Signals


def _rows(count: int, seed: int = 0) -> tuple[Signals, Floats]:
    """The chance that the small model loses falls with its lowest tokens; the length says nothing."""
    rng = np.random.default_rng(seed)
    low = rng.normal(-3.0, 1.0, count)
    lost = rng.random(count) < 1.0 / (1.0 + np.exp(2.0 * (low + 3.0)))
    return Signals.of(count, logprob_low=low, tokens=rng.integers(1, 200, count)), -lost.astype(np.float64)


def _rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (first, second)]
    return float(np.corrcoef(ranks)[0, 1])


def test_rows_are_ordered_by_what_tells() -> None:
    signals, gaps = _rows(2000)
    confidence = fit(signals, gaps).apply(signals)
    assert confidence.dtype == np.float32
    assert confidence.min() >= 0.0
    assert confidence.max() <= 1.0
    assert _rank_correlation(confidence, signals.logprob_low) > 0.95


def test_a_confidence_is_an_expected_gap() -> None:
    signals, gaps = _rows(4000)
    model = fit(signals, gaps)
    others, other_gaps = _rows(4000, seed=1)
    confidence = model.apply(others)
    for part in np.array_split(np.argsort(confidence), 4):
        assert -model.gains(confidence)[part].mean() == pytest.approx(other_gaps[part].mean(), abs=0.05)


def test_a_signal_that_is_good_in_the_middle_is_learned() -> None:
    rng = np.random.default_rng(0)
    score = rng.uniform(-1, 1, 2000)
    gaps = -(np.abs(score) > 0.5).astype(float)
    confidence = fit(Signals.of(2000, logprob=score), gaps).apply(Signals.of(3, logprob=[-0.9, 0.0, 0.9]))
    assert confidence[1] > 0.8 > 0.2 > max(confidence[0], confidence[2])


def test_unknown_signals_count_as_they_did_in_the_fitted_rows() -> None:
    rng = np.random.default_rng(0)
    logprob = np.where(rng.random(1000) < 0.5, np.nan, -1.0 - rng.random(1000))
    gaps = np.where(np.isnan(logprob), -1.0, 0.0)
    model = fit(Signals.of(1000, logprob=logprob), gaps)
    unknown, known = model.apply(Signals.of(2, logprob=[np.nan, -1.5]))
    assert unknown < 0.1 < 0.9 < known
    assert model.missing(Signals.of(2, tokens=[1, 2])) == ["logprob"]
    assert model.apply(Signals.of(2, tokens=[1, 2])).tolist() == pytest.approx([unknown] * 2)


def test_recorded_signals_are_learned_by_name() -> None:
    rng = np.random.default_rng(0)
    agrees = (rng.random(500) < 0.5).astype(float)
    gaps = -((rng.random(500) < 0.7) & (agrees == 0)).astype(float)
    model = fit(Signals.of(500, {"helper": agrees}), gaps)
    low, high = model.apply(Signals.of(2, {"helper": np.array([0.0, 1.0])}))
    assert high - low > 0.5


def test_the_model_is_plain_json() -> None:
    signals, gaps = _rows(300)
    model = fit(signals, gaps)
    again = ConfidenceModel.model_validate_json(model.model_dump_json())
    assert np.array_equal(again.apply(signals), model.apply(signals))


def test_the_fit_is_a_minimum_of_the_penalised_loss() -> None:
    rng = np.random.default_rng(0)
    features, targets, weights = rng.normal(size=(200, 3)), rng.random(200), 2 * rng.random(200)
    fitted = _logistic(features, targets, weights, 10.0)

    def loss(values: Floats) -> float:
        linear = values[0] + features @ values[1:]
        return float(weights @ (np.logaddexp(0, linear) - targets * linear)) + 5.0 * float(values[1:] @ values[1:])

    for place in range(4):
        for step in (-0.01, 0.01):
            moved = fitted.copy()
            moved[place] += step
            assert loss(moved) > loss(fitted)


def test_weights_are_rows() -> None:
    signals, gaps = _rows(200)
    twice = np.concatenate([np.arange(200), np.arange(50)])
    weights = np.where(np.arange(200) < 50, 2.0, 1.0)
    once = _logistic(signals.logprob_low[:, None], -gaps, weights, 1.0)
    copied = _logistic(signals.logprob_low[twice, None], -gaps[twice], np.ones(250), 1.0)
    assert once == pytest.approx(copied)


@pytest.mark.parametrize("gap", [0.0, -1.0, 0.3])
def test_rows_that_all_have_the_same_gap_have_the_same_confidence(gap: float) -> None:
    signals, _ = _rows(100)
    model = fit(signals, np.full(100, gap))
    assert np.ptp(model.apply(signals)) < 1e-3
    assert model.gains(model.apply(signals)) == pytest.approx(np.full(100, -gap), abs=1e-6)


def test_signals_that_never_vary_say_nothing() -> None:
    model = fit(Signals.of(100, logprob=np.full(100, -1.0)), np.linspace(-1, 1, 100))
    assert model.columns == {}


def test_an_outlier_of_another_night_is_clipped() -> None:
    signals, gaps = _rows(500)
    model = fit(signals, gaps)
    lowest = model.apply(Signals.of(2, logprob_low=[-1e9, float(np.percentile(signals.logprob_low, 1))], tokens=[9, 9]))
    assert lowest[0] == lowest[1]


def test_without_a_fit_agreement_comes_first() -> None:
    signals = Signals.of(3, agreement=[0.25, np.nan, 1.0], logprob_low=[-1.0, -2.0, -3.0])
    assert unfitted(signals).tolist() == pytest.approx([0.25, np.nan, 1.0], nan_ok=True)


def test_without_samples_the_low_tail_ranks_the_rows() -> None:
    confidence = unfitted(Signals.of(5, logprob_low=[-3.0, -1.0, np.nan, -2.0, -2.0]))
    assert confidence.tolist() == pytest.approx([0.0, 1.0, np.nan, 0.5, 0.5], nan_ok=True)
    assert np.isnan(unfitted(Signals.of(2, tokens=[1, 2]))).all()


def test_a_reading_comes_after_an_agreement_and_before_log_probabilities() -> None:
    known = {"reading": [0.25, 0.75], "logprob_low": [-1.0, -2.0]}
    assert unfitted(Signals.of(2, **known)).tolist() == [0.25, 0.75]
    assert unfitted(Signals.of(2, agreement=[1.0, 0.5], **known)).tolist() == [1.0, 0.5]
