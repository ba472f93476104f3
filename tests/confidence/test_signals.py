"""Signals as columns of rows."""

from __future__ import annotations

import numpy as np
import pytest

from batchroute.confidence.signals import Signals


def test_what_is_not_given_is_unknown() -> None:
    signals = Signals.of(2, agreement=[0.5, 1.0], logprob=None)
    assert len(signals) == 2
    assert np.isnan(signals.logprob).all()
    assert signals.known == ["agreement"]


def test_rows_are_taken_from_all_columns() -> None:
    signals = Signals.of(3, {"helper": np.array([1.0, 0.0, 1.0])}, tokens=[4, 5, 6])
    part = signals.take(np.array([2, 0]))
    assert part.tokens.tolist() == [6.0, 4.0]
    assert part.extra["helper"].tolist() == [1.0, 1.0]
    assert signals.take(np.array([True, False, False])).tokens.tolist() == [4.0]


def test_a_recorded_signal_does_not_hide_a_measured_one() -> None:
    signals = Signals.of(1, {"logprob": np.array([-9.0])}, logprob=[-1.0])
    assert signals.columns["logprob"].tolist() == [-1.0]
    assert signals.columns["recorded:logprob"].tolist() == [-9.0]


@pytest.mark.parametrize(
    ("signals", "tells"),
    [
        (Signals.of(1, tokens=[3], cut=[0], score=[0.5]), False),
        (Signals.of(1, logprob_low=[-2.0]), True),
        (Signals.of(1, agreement=[0.0]), True),
        (Signals.of(1, {"helper": np.array([1.0])}), True),
        (Signals.of(1, {"helper": np.array([np.nan])}), False),
    ],
)
def test_an_answer_tells_by_its_tokens_by_samples_or_by_a_record(signals: Signals, tells: bool) -> None:
    assert signals.tells is tells


def test_signals_can_be_left_out() -> None:
    signals = Signals.of(1, {"helper": np.array([1.0])}, logprob=[-1.0], score=[0.2])
    assert signals.without("score", "helper").known == ["logprob"]


def test_an_unknown_name_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="no signal 'logprobs'"):
        Signals.of(1, logprobs=[-1.0])
