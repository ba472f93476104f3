from __future__ import annotations

import numpy as np
import pytest

from batchroute.errors import InputError
from batchroute.policy.decision import Groups, RowsToRoute, all_large, decide
from batchroute.policy.settings import Policy

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, np.nan], np.float32)
USABLE = np.array([True, True, True, True, True, True, True])


def rows(groups: list[str | None] | None = None, usable: np.ndarray = USABLE) -> RowsToRoute:
    column = None
    if groups is not None:
        names = list(dict.fromkeys(groups))
        column = Groups(names, np.array([names.index(group) for group in groups], np.int32))
    gains = 1.0 - SCORES.astype(np.float64)
    return RowsToRoute(SCORES, usable, column, gains, np.full(7, 10**6), np.full(7, 3 * 10**6))


def test_each_group_is_decided_over_its_own_rows() -> None:
    policy = Policy.model_validate(
        {"by": "tier", "gold": {"threshold": 1.01}, "free": {"small_share": "50%"}, "default": {"threshold": 0.55}}
    )
    decision = decide(policy, rows(["gold", "free", "other", None, "free", "free", "free"]))
    # free: two of four; other and null go by the default.
    assert decision.small.tolist() == [False, True, True, True, True, False, False]
    assert [(one.group, one.rows, one.small) for one in decision.decided] == [
        ("gold", 1, 0), ("free", 4, 2), ("default", 2, 2),
    ]  # fmt: skip


def test_a_share_with_ties_is_exact_within_a_group_and_its_last_tie_is_a_position_among_all_rows() -> None:
    same = RowsToRoute(
        np.full(6, 0.5, np.float32), np.ones(6, bool), Groups(["a", "b"], np.array([1, 0, 1, 0, 1, 0], np.int32))
    )
    decision = decide(
        Policy.model_validate({"by": "g", "a": {"small_share": "60%"}, "default": {"threshold": 1}}), same
    )
    assert decision.small.tolist() == [False, True, False, True, False, False]
    cutoff = decision.decided[0].cutoff
    assert cutoff is not None
    assert cutoff.last_tie == 3


def test_rows_that_cannot_be_routed_do_not_count() -> None:
    usable = np.array([False, True, True, True, True, True, True])
    decision = decide(Policy.model_validate({"small_share": "50%"}), rows(usable=usable))
    assert decision.small.tolist() == [False, True, True, True, False, False, False]
    assert decision.decided[0].rows == 6


def test_a_budget_pays_for_the_router_and_for_rows_without_a_score_first() -> None:
    # All on small: 6 × 1 and 3 for the row without a score, in millionths of a dollar.
    policy = Policy.model_validate({"budget": "0.000013 USD"})
    assert decide(policy, rows()).small.tolist() == [True, True, True, True, False, False, False]
    assert decide(policy, rows(), spent=2 * 10**6).small.tolist() == [True] * 5 + [False, False]


def test_a_sample_has_its_part_of_the_budget() -> None:
    policy = Policy.model_validate({"budget": "0.000026 USD"})
    assert decide(policy, rows(), part=0.5).small.tolist() == [True, True, True, True, False, False, False]


def test_a_budget_that_pays_for_no_answer_is_one_sentence_with_what_is_needed() -> None:
    with pytest.raises(InputError, match=r"policy.budget: budget 0.000001 USD does not pay .* cost 0.000009 USD"):
        decide(Policy.model_validate({"budget": 0.000001}), rows())
    by_group = Policy.model_validate({"by": "g", "a": {"budget": 0}, "default": {"threshold": 1}})
    with pytest.raises(InputError, match=r"policy.groups.a.budget: budget 0 USD does not pay"):
        decide(by_group, rows(["a"] * 7))


def test_on_drift_all_rows_may_go_to_large() -> None:
    decision = all_large(rows(), "all to large, on drift")
    assert not decision.small.any()
    assert (decision.decided[0].rows, decision.decided[0].small) == (7, 0)
