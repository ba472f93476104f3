"""The decision: the policy applied to all rows of a run, whole or group by group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute.errors import InputError
from batchroute.policy.budget import Priced, spend
from batchroute.policy.settings import DEFAULT, Cutoff, Policy, Rule, Scores
from batchroute.router.calibration.calibrate import Calibration

Mask = NDArray[np.bool_]
Picos = NDArray[np.int64]
Floats = NDArray[np.float64]

PICO = 10**12


@dataclass(frozen=True, slots=True)
class Groups:
    """The values of a policy's column, by row.

    Attributes:
        names: the different values, as text; None for null.
        codes: shape [rows]: which of `names` each row has.
    """

    names: list[str | None]
    codes: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Rows:
    """What is decided on; arrays of shape [rows], by position.

    Attributes:
        scores: NaN where a row has none.
        routable: rows with a usable prompt; the others are sent to no model.
        groups: None where the policy has none.
        gains: expected q(L) − q(S), NaN without a score; for a budget.
        small, large: expected cost of each row on each model, in pico-dollars; for a budget.
        known: rows of the calibration, priced alike, and their true gains; for a budget, where there are any.
    """

    scores: Scores
    routable: Mask
    groups: Groups | None = None
    gains: Floats | None = None
    small: Picos | None = None
    large: Picos | None = None
    known: tuple[Priced, Floats] | None = None


class Decided(BaseModel):
    """What was decided for all rows, or for those of a group: `group` is None then.

    Attributes:
        policy: in words.
        rows: with a usable prompt.
        small: of these, sent to the small model.
        cutoff: None for a budget, which has no single one.
    """

    model_config = ConfigDict(frozen=True)

    group: str | None
    policy: str
    rows: int
    small: int
    cutoff: Cutoff | None


@dataclass(frozen=True, slots=True)
class Decision:
    """Attributes:
    small: shape [rows]; which go to the small model; all others with a usable prompt go to the large one.
    """

    small: Mask
    decided: list[Decided]


def decide(
    policy: Policy, rows: Rows, calibration: Calibration | None = None, spent: int = 0, part: float = 1.0
) -> Decision:
    """Which rows go to the small model: a share is exact to the row, a budget exact over all rows of its group.

    Args:
        calibration: the router's; for a limit on the quality drop.
        spent: pico-dollars that a budget for all rows has to bear besides the two models: the router's cost.
        part: of the run's rows that these are, where they are a sample; a budget is for the whole run.

    Raises:
        InputError: a budget does not even pay for the cheaper model of every row.
    """
    small = np.zeros(len(rows.scores), np.bool_)
    decided = []
    for group, rule in policy.rules():
        mine = rows.routable if group is None else rows.routable & _members(rows, policy, group)
        at = np.flatnonzero(mine)
        cutoff = None
        if rule.budget is not None:
            chosen = _by_budget(rule, rows, at, group, spent if group is None else 0, part)
        else:
            cutoff = rule.decide(rows.scores[at], len(at), calibration)
            chosen = cutoff.small(rows.scores[at], np.arange(len(at)))
            cutoff = _over_all_rows(cutoff, at)
        small[at] = chosen
        decided.append(Decided(group=group, policy=rule.words, rows=len(at), small=int(chosen.sum()), cutoff=cutoff))
    return Decision(small, decided)


def all_large(rows: Rows, why: str) -> Decision:
    """Every row to the large model."""
    routable = int(rows.routable.sum())
    nothing = Cutoff.of_none()
    decided = [Decided(group=None, policy=why, rows=routable, small=0, cutoff=nothing)]
    return Decision(np.zeros(len(rows.scores), np.bool_), decided)


def _members(rows: Rows, policy: Policy, group: str) -> Mask:
    assert rows.groups is not None
    assert policy.groups is not None
    named = policy.groups.keys() - {DEFAULT}
    codes = [
        code
        for code, name in enumerate(rows.groups.names)
        if (name == group if group != DEFAULT else name not in named)
    ]
    members: Mask = np.isin(rows.groups.codes, codes)
    return members


def _by_budget(rule: Rule, rows: Rows, at: NDArray[np.intp], group: str | None, spent: int, part: float) -> Mask:
    assert rule.budget is not None
    assert rows.gains is not None
    assert rows.small is not None
    assert rows.large is not None
    gains, small, large = rows.gains[at], rows.small[at], rows.large[at]
    # A row that the router could not score goes to the large model, whatever it costs.
    scored = ~np.isnan(gains)
    unscored = int(large[~scored].sum())
    chosen = np.zeros(len(at), np.bool_)
    money = int((int(rule.budget * PICO) - spent) * part) - unscored
    priced = Priced(rows.scores[at][scored], gains[scored], small[scored], large[scored])
    found = spend(priced, money, rows.known)
    if found is None:
        needed = (priced.least + unscored) / part / PICO + spent / PICO
        where = "policy.budget" if group is None else f"policy.groups.{group}.budget"
        raise InputError(
            f"{where}: {rule.words} does not pay for this input: the cheaper model of each row and the router are "
            f"expected to cost {needed:,.6f} USD; raise it, or choose another policy"
        )
    chosen[scored] = found
    return chosen


def _over_all_rows(cutoff: Cutoff, at: NDArray[np.intp]) -> Cutoff:
    """The cut-off of a group with its last tie as a position among all rows."""
    if cutoff.last_tie >= len(at):
        return cutoff
    return cutoff.model_copy(update={"last_tie": int(at[cutoff.last_tie])})
