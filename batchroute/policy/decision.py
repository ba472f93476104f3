"""The decision: the policy applied to all rows of a run, or group by group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute.costs.prices import PICO
from batchroute.errors import InputError
from batchroute.policy.budget import Priced, spend
from batchroute.policy.settings import DEFAULT, Cutoff, Policy, Rule, Scores
from batchroute.router.calibration.points import Calibration

Mask = NDArray[np.bool_]
Picos = NDArray[np.int64]
Floats = NDArray[np.float64]

_SURE = 3.0


@dataclass(frozen=True, slots=True)
class Groups:
    """The values of the policy's column `by`.

    Attributes:
        names: the distinct values, as text; None for null.
        codes: shape [rows]: the index in `names` of each row's value.
    """

    names: list[str | None]
    codes: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RowsToRoute:
    """The rows of a decision; arrays of shape [rows], by position.

    Attributes:
        scores: NaN where a row has none.
        routable: rows with a usable prompt; the others go to no model.
        groups: None for a policy without groups.
        gains: expected q(L) − q(S), NaN without a score. Only a budget needs gains, costs and known rows.
        small, large: expected cost of each row on each model, in pico-dollars.
        known: rows of the calibration with the same prices, and their true gains; None if there are none.
        paid: what the small model's answers have cost, in pico-dollars, if they are there when the policy decides:
            then `small` is 0, and a budget buys answers of the large model with what is left.
        error, spread: of the large model's costs, see `ModelCosts`.
    """

    scores: Scores
    routable: Mask
    groups: Groups | None = None
    gains: Floats | None = None
    small: Picos | None = None
    large: Picos | None = None
    known: tuple[Priced, Floats] | None = None
    paid: Picos | None = None
    error: float = 0.0
    spread: float = 0.0


class Decided(BaseModel):
    """The decision for one group of rows.

    Attributes:
        group: None for all rows.
        policy: the rule in words.
        rows: number of rows with a usable prompt.
        small: number of rows sent to the small model.
        cutoff: None for a budget, which has no single cut-off.
        overspent: the small model's answers, once they are there, have cost more than the budget.
    """

    model_config = ConfigDict(frozen=True)

    group: str | None
    policy: str
    rows: int
    small: int
    cutoff: Cutoff | None
    overspent: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Attributes:
    small: shape [rows]; rows for the small model. All other rows with a usable prompt go to the large model.
    """

    small: Mask
    decided: list[Decided]


def decide(
    policy: Policy,
    rows: RowsToRoute,
    calibration: Calibration | Mapping[str | None, Calibration] | None = None,
    spent: int = 0,
    part: float = 1.0,
) -> Decision:
    """Which rows go to the small model, or keep its answer. A share is met exactly to the row; a budget holds over all
    rows of its group.

    Args:
        calibration: of the scores, or by group; needed for a limit on the quality drop.
        spent: cost of the router and of tonight's calibration in pico-dollars, which a budget for all rows must also
            cover.
        part: if the rows are a sample, their share of the run's rows; a budget is for the whole run.

    Raises:
        InputError: a budget does not pay for the cheaper model of every row. If the small model has answered already,
            its answers are kept instead.
    """
    small = np.zeros(len(rows.scores), np.bool_)
    decided = []
    for group, rule in policy.rules():
        members = rows.routable if group is None else rows.routable & _members(rows, policy, group)
        at = np.flatnonzero(members)
        cutoff, overspent = None, False
        if rule.budget is not None:
            chosen, overspent = _by_budget(rule, rows, at, group, spent if group is None else 0, part)
        else:
            known = calibration.get(group) if isinstance(calibration, Mapping) else calibration
            cutoff = rule.cutoff(rows.scores[at], len(at), known)
            chosen = cutoff.small(rows.scores[at], np.arange(len(at)))
            cutoff = _over_all_rows(cutoff, at)
        small[at] = chosen
        decided.append(
            Decided(
                group=group,
                policy=rule.words,
                rows=len(at),
                small=int(chosen.sum()),
                cutoff=cutoff,
                overspent=overspent,
            )
        )
    return Decision(small, decided)


def all_large(rows: RowsToRoute, why: str) -> Decision:
    """Every row to the large model."""
    routable = int(rows.routable.sum())
    nothing = Cutoff.of_none()
    decided = [Decided(group=None, policy=why, rows=routable, small=0, cutoff=nothing)]
    return Decision(np.zeros(len(rows.scores), np.bool_), decided)


def members_of(groups: Groups, policy: Policy, group: str) -> Mask:
    """Which rows are in a group of the policy: shape [rows]."""
    assert policy.groups is not None
    named = policy.groups.keys() - {DEFAULT}
    codes = [
        code for code, name in enumerate(groups.names) if (name == group if group != DEFAULT else name not in named)
    ]
    members: Mask = np.isin(groups.codes, codes)
    return members


def _members(rows: RowsToRoute, policy: Policy, group: str) -> Mask:
    assert rows.groups is not None
    return members_of(rows.groups, policy, group)


def _by_budget(
    rule: Rule, rows: RowsToRoute, at: NDArray[np.intp], group: str | None, spent: int, part: float
) -> tuple[Mask, bool]:
    """The rows for the small model, and whether it has cost more than the budget already."""
    assert rule.budget is not None
    assert rows.gains is not None
    assert rows.small is not None
    assert rows.large is not None
    gains, small, large = rows.gains[at], rows.small[at], rows.large[at]
    # A row that the router could not score goes to the large model at any cost.
    scored = ~np.isnan(gains)
    unscored = int(large[~scored].sum())
    chosen = np.zeros(len(at), np.bool_)
    money = int((int(rule.budget * PICO) - spent) * part) - unscored
    priced = Priced(rows.scores[at][scored], gains[scored], small[scored], large[scored])
    if rows.paid is not None:
        left = money - int(rows.paid[at].sum())
        chosen[scored] = True if left < 0 else _bought(priced, left, int((~scored).sum()), rows)
        return chosen, left < 0
    to_small = spend(priced, money, rows.known)
    if to_small is None:
        needed = (priced.least + unscored) / part / PICO + spent / PICO
        where = "policy.budget" if group is None else f"policy.groups.{group}.budget"
        raise InputError(
            f"{where}: {rule.words} does not pay for this input: the cheaper model of each row and the router are "
            f"expected to cost {needed:,.6f} USD; raise it, or choose another policy"
        )
    chosen[scored] = to_small
    return chosen, False


def _bought(priced: Priced, money: int, others: int, rows: RowsToRoute) -> Mask:
    """The rows that keep the small model's answer.

    What single answers will cost is only expected: three standard errors of the whole amount stay unspent, so that the
    real costs stay within the budget too.

    Args:
        others: further rows that go to the large model.
    """
    kept = spend(priced, money, rows.known)
    assert kept is not None
    count = int((~kept).sum()) + others
    unsure = math.ceil(_SURE * math.hypot(rows.error * count, rows.spread * math.sqrt(count)))
    bought = spend(priced, max(0, money - unsure), rows.known) if unsure else kept
    assert bought is not None
    return bought


def _over_all_rows(cutoff: Cutoff, at: NDArray[np.intp]) -> Cutoff:
    """A group's cut-off, with its last tie as a position among all rows."""
    if cutoff.last_tie >= len(at):
        return cutoff
    return cutoff.model_copy(update={"last_tie": int(at[cutoff.last_tie])})
