from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from batchroute.policy.settings import Cutoff, Policy, Scores

# Few values, so that ties are common; NaN for a row without a score.
TIED = st.sampled_from([0.0, -0.0, 0.25, 0.5, 0.7, 1.0, float("nan")])
SCORES = st.lists(st.one_of(TIED, st.floats(0, 1, width=32)), max_size=40)


def small(policy: Policy, scores: list[float], routable: int | None = None) -> list[bool]:
    """Which rows go to the small model, decided on all scores and applied in two chunks, as a run does."""
    array: Scores = np.array(scores, np.float32)
    cutoff = policy.cutoff(array.copy(), len(scores) if routable is None else routable)
    # What is written to disk between deciding and dealing out.
    cutoff = Cutoff.model_validate_json(cutoff.model_dump_json())
    positions, half = np.arange(len(scores)), len(scores) // 2
    chunks = [cutoff.small(array[s], positions[s]) for s in (slice(None, half), slice(half, None))]
    return [bool(row) for chunk in chunks for row in chunk]


def share_policy(percent: str) -> Policy:
    return Policy.model_validate({"small_share": percent})


def easiest(scores: list[float], wanted: int) -> list[bool]:
    """The rows of the `wanted` highest scores, the first of equal ones first."""
    known = [index for index, score in enumerate(scores) if score == score]
    chosen = set(sorted(known, key=lambda index: (-np.float32(scores[index]), index))[:wanted])
    return [index in chosen for index in range(len(scores))]


def test_a_score_at_the_threshold_goes_to_small() -> None:
    below, above = np.nextafter(np.float32(0.5), np.float32([0, 1]))
    assert small(Policy(threshold=0.5), [below, 0.5, above, 0.0, 1.0]) == [False, True, True, False, True]


@pytest.mark.parametrize("threshold", [0.7, 0.9])
def test_a_score_that_reads_as_the_threshold_goes_to_small(threshold: float) -> None:
    """Scores are float32: the one that is shown as 0.7 is a little less than the number 0.7."""
    assert small(Policy(threshold=threshold), [threshold]) == [True]


def test_a_threshold_of_zero_sends_all_scored_rows_to_small_and_one_above_one_none() -> None:
    scores = [0.0, 0.5, 1.0, float("nan")]
    assert small(Policy(threshold=0.0), scores) == [True, True, True, False]
    assert small(Policy(threshold=1.01), scores) == [False] * 4


@given(SCORES, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_a_threshold_is_a_comparison_of_every_row(scores: list[float], threshold: float) -> None:
    assert small(Policy(threshold=threshold), scores) == [score >= threshold for score in scores]


@given(SCORES, st.integers(0, 1000), st.integers(0, 5))
def test_a_share_is_met_to_the_row_by_the_easiest_rows(scores: list[float], per_mille: int, unscored: int) -> None:
    share = Decimal(per_mille).scaleb(-3)
    routable = sum(score == score for score in scores) + unscored
    wanted = int((share * routable).to_integral_value(ROUND_HALF_UP))
    assert wanted == int(Fraction(per_mille, 1000) * routable + Fraction(1, 2))
    assert small(Policy(small_share=share), scores, routable) == easiest(scores, wanted)


@pytest.mark.parametrize(
    ("rows", "percent", "wanted"), [(10, "25%", 3), (10, "24.9%", 2), (3, "50%", 2), (7, "10%", 1)]
)
def test_half_a_row_is_rounded_up(rows: int, percent: str, wanted: int) -> None:
    assert sum(small(share_policy(percent), [0.5] * rows)) == wanted


def test_of_equal_scores_the_first_rows_go_to_small() -> None:
    assert small(share_policy("50%"), [0.2, 0.9, 0.5, 0.5, 0.5, 0.1]) == [False, True, True, True, False, False]


def test_a_row_without_a_score_never_goes_to_small() -> None:
    nan = float("nan")
    assert small(share_policy("100%"), [nan, 0.1, nan]) == [False, True, False]
    assert small(share_policy("100%"), [nan, nan]) == [False, False]
    assert small(Policy(threshold=0.0), [nan]) == [False]


@pytest.mark.parametrize(("percent", "expected"), [("0%", False), ("100%", True)])
def test_none_and_all(percent: str, expected: bool) -> None:
    assert small(share_policy(percent), [0.0, 0.5, 1.0, 1.0]) == [expected] * 4


def test_a_run_without_rows_is_decided_too() -> None:
    assert small(share_policy("50%"), []) == []


def test_rows_that_no_model_will_see_do_not_count_for_the_share() -> None:
    nan = float("nan")
    assert sum(small(share_policy("50%"), [0.1, nan, 0.2, nan, 0.3, 0.4], routable=4)) == 2


def test_deciding_leaves_the_scores_as_they_are() -> None:
    scores: Scores = np.array([0.3, 0.1, 0.2], np.float32)
    share_policy("34%").cutoff(scores, 3)
    assert scores.tolist() == np.array([0.3, 0.1, 0.2], np.float32).tolist()


@pytest.mark.parametrize("values", [{}, {"threshold": 0.5, "small_share": "50%"}])
def test_there_is_exactly_one_policy(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="give exactly one of threshold, small_share"):
        Policy.model_validate(values)
