"""Deciding on confidences, on arrays alone: what is paid is known, and what is left buys answers of the large model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from batchroute.costs.prices import PICO
from batchroute.policy.decision import Groups, RowsToRoute, decide
from batchroute.policy.settings import Policy

CONFIDENCE = np.array([0.9, 0.1, 0.5, np.nan, 0.7, 0.3], np.float32)
CENT = PICO // 100


def rows_of(**more: Any) -> RowsToRoute:
    """Each answer of the small model has cost 1 cent, and each of the large one will cost 10."""
    count = len(CONFIDENCE)
    return RowsToRoute(
        CONFIDENCE,
        np.ones(count, np.bool_),
        gains=1.0 - CONFIDENCE.astype(np.float64),
        small=np.zeros(count, np.int64),
        large=np.full(count, 10 * CENT),
        paid=np.full(count, CENT),
        **more,
    )


@pytest.mark.parametrize(
    ("cents", "kept"),
    [
        # 6 cents are paid, and the row without a confidence goes on: its 10 cents come first.
        (15, [0, 1, 2, 4, 5]),
        (16, [0, 1, 2, 4, 5]),
        (26, [0, 2, 4, 5]),
        (35, [0, 2, 4, 5]),
        (36, [0, 2, 4]),
        (1000, []),
    ],
)
def test_what_is_left_of_a_budget_buys_the_largest_gains(cents: int, kept: list[int]) -> None:
    policy = Policy.model_validate({"budget": f"{cents / 100}", "decide": "after"})
    decision = decide(policy, rows_of())
    assert np.flatnonzero(decision.small).tolist() == kept


def test_unsure_costs_leave_some_money_unspent() -> None:
    policy = Policy.model_validate({"budget": "0.36", "decide": "after"})
    decision = decide(policy, rows_of(spread=1.0 * CENT))
    assert np.flatnonzero(decision.small).tolist() == [0, 2, 4, 5]


def test_a_group_pays_for_its_own_answers() -> None:
    groups = Groups(["a", "b"], np.array([0, 1, 0, 1, 0, 1], np.int32))
    policy = Policy.model_validate(
        {"by": "team", "decide": "after", "a": {"budget": "0.13"}, "default": {"small_share": "0.34"}}
    )
    decision = decide(policy, rows_of(groups=groups), spent=100 * CENT)
    # Of group a, 3 cents are paid and 10 buy the row of the lowest confidence; of b one row in three stays.
    assert np.flatnonzero(decision.small).tolist() == [0, 4, 5]


def test_a_limit_without_a_measured_group_keeps_no_answer() -> None:
    policy = Policy.model_validate({"max_quality_drop": "5%", "decide": "after"})
    assert not decide(policy, rows_of(), {}).small.any()
