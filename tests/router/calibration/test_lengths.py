from __future__ import annotations

import numpy as np
import pytest

from batchroute.router.calibration.lengths import Lengths, Line


def test_a_line_finds_what_the_text_around_a_prompt_and_each_of_its_tokens_add() -> None:
    tokens = np.array([10, 20, 40, 80], np.int32)
    line = Line.fit(tokens, 100.0 + 1.5 * tokens)
    assert line.at(tokens) == pytest.approx(100.0 + 1.5 * tokens)
    assert line.error == pytest.approx(0.0, abs=1e-9)


def test_a_line_that_would_fall_is_level_at_the_mean() -> None:
    tokens = np.array([10, 20, 30], np.int32)
    line = Line.fit(tokens, np.array([30.0, 20.0, 10.0]))
    assert (line.per_token, line.base) == (0.0, 20.0)
    assert line.error == pytest.approx(10.0 / np.sqrt(3))


def test_the_expected_tokens_add_up_to_those_that_were_measured() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 500, 300).astype(np.int32)
    written = rng.exponential(20 + 0.1 * tokens)
    assert Line.fit(tokens, written).at(tokens).sum() == pytest.approx(written.sum())


def test_prompts_without_figures_are_left_out_and_two_are_needed() -> None:
    tokens = np.array([10, 20, 30], np.int32)
    lengths = Lengths.fit(tokens, np.array([10.0, np.nan, 30.0]), np.array([5.0, 7.0, 5.0]), 0.25)
    assert lengths is not None
    assert (lengths.prompts, lengths.output.base, lengths.seconds_per_token) == (2, 5.0, 0.25)
    assert Lengths.fit(tokens, np.array([10.0, np.nan, np.nan]), np.array([5.0, 5.0, 5.0])) is None


def test_where_nothing_was_measured_a_response_is_the_longest_and_the_template_is_read_too() -> None:
    lengths = Lengths.at_most(64, "x" * 40)
    assert lengths.input.at(np.array([7], np.int32)) == [17.0]
    assert lengths.output.at(np.array([7], np.int32)) == [64.0]
