from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from batchroute.generators import signals
from batchroute.generators.settings import ModelSpec


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 57])
def test_the_mean_and_the_low_tail_of_the_tokens(count: int) -> None:
    logprobs = -np.random.default_rng(count).exponential(size=count)
    mean, low = signals.of_tokens(logprobs.tolist())
    assert mean == pytest.approx(logprobs.mean())
    assert low == pytest.approx(np.quantile(logprobs, 0.1))


def test_without_tokens_nothing_is_known() -> None:
    assert signals.of_tokens([]) == (None, None)


@pytest.mark.parametrize("none", [-np.inf, -9999.0])
def test_a_token_without_probability_does_not_drown_the_others(none: float) -> None:
    mean, low = signals.of_tokens([-1.0, none])
    assert mean == pytest.approx((-1.0 + signals.LEAST) / 2)
    assert low == pytest.approx(signals.LEAST + 0.1 * (-1.0 - signals.LEAST))


@pytest.mark.parametrize(("length", "number"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (6, 3)])
def test_a_token_counts_if_a_part_of_it_is_before_the_cut(length: int, number: int) -> None:
    words = ["ab", "cd", "ef"]

    def decode(tokens: Sequence[int]) -> str:
        return "".join(words[token] for token in tokens)

    assert signals.tokens_of_text([0, 1, 2], length, decode) == number


@pytest.mark.parametrize(
    ("confidence", "words"),
    [
        ({"agree": "number"}, "set samples"),
        ({"samples": 3, "agree": "embedding"}, "model"),
        ({"samples": 3, "model": "encoder"}, "agree: embedding"),
        ({"samples": -1}, "greater than or equal to 0"),
        ({"logprobs": False}, "asks for no signal"),
        ({"sample": 3}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(confidence: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelSpec.model_validate({"backend": "echo", "confidence": confidence})


def test_without_confidence_no_signal_is_asked_for() -> None:
    spec = ModelSpec(backend="echo")
    assert (spec.logprobs, spec.samples) == (False, 0)
    assert "confidence" not in spec.model_dump(exclude_none=True)
