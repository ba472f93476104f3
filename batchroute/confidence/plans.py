"""Plans: the ways to decide, before or after the small model has answered or both, and what each costs and loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from batchroute.confidence.rows import Floats, PricedRows, Scores
from batchroute.router.calibration.drops import CONFIDENCE, points_of
from batchroute.router.calibration.points import Point

Way = Literal["before", "after", "both"]
WAYS: tuple[Way, ...] = get_args(Way)

SKIPPED = np.float32(-1.0)
"""The confidence of a row that skips the small model: below that of any answer."""

_SKIPPED_SHARES = tuple(share / 100 for share in range(5, 100, 5))
_TRIFLE, _TWO_SIDES = 1e-9, 1.96


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to decide.

    Attributes:
        skip: of `both`: rows whose score is below it go to the large model at once.
    """

    way: Way
    skip: float | None = None

    def order(self, rows: PricedRows) -> Scores:
        """By what the rows are ordered, those that stay on the small model first: shape [rows]."""
        if self.way == "before":
            assert rows.score is not None
            return rows.score
        return np.where(self.asked(rows), rows.confidence, SKIPPED)

    def asked(self, rows: PricedRows) -> NDArray[np.bool_]:
        """Rows that the small model answers before they are decided on."""
        if self.way == "before":
            return np.zeros(len(rows), np.bool_)
        if self.skip is None:
            return np.ones(len(rows), np.bool_)
        assert rows.score is not None
        asked: NDArray[np.bool_] = rows.score >= np.float32(self.skip)
        return asked

    def costs(self, rows: PricedRows) -> tuple[Floats, Floats]:
        """What each row costs if it does not stay on the small model, and if it does: shapes [rows]."""
        scored = rows.router_cost if rows.score is not None else 0.0
        if self.way == "before":
            return scored + rows.large_cost, scored + rows.small_cost
        answered = scored + self.asked(rows) * (rows.small_cost + rows.signal_cost)
        return answered + rows.large_cost, answered


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Loss by total cost, for the rows as they are (entry 0) and for each resample.

    Attributes:
        cost, loss: of each draw, shape [kept]: in units of `PricedRows.all_large` and of the metric; from no row on
            the small model, the dearest, to all that the plan lets stay there.
        large: shape [draws]: mean q(L).
        stays: shape [kept]: share of the rows as they are that stay on the small model.
    """

    cost: list[Floats]
    loss: list[Floats]
    large: Floats
    stays: Floats

    def reaches(self, cost: float) -> bool:
        """Whether the rows as they are can cost as little."""
        return bool(cost >= self.cost[0][-1] - _TRIFLE)

    def loss_at(self, costs: Floats) -> Floats:
        """Loss at each total cost: shape [draws, costs]; below the least cost, that of the least."""
        losses = [np.interp(costs, x[::-1], y[::-1]) for x, y in zip(self.cost, self.loss, strict=True)]
        return np.array(losses)

    def drop_at(self, cost: float) -> Floats:
        """Quality drop in percent at a total cost: shape [draws]; all infinite if the rows cannot cost as little."""
        if not self.reaches(cost):
            return np.full(len(self.large), np.inf)
        drops: Floats = 100.0 * self.loss_at(np.array([cost]))[:, 0] / np.abs(self.large)
        return drops


def curve(
    rows: PricedRows, plan: Plan, draws: NDArray[np.uint16] | None = None, part: NDArray[np.bool_] | None = None
) -> CostCurve:
    """Keep the rows on the small model that the plan puts first, one after the other.

    Rows of equal order lose and cost their average, as if drawn at random.

    Args:
        part: count the losses and the share of these rows alone, in units of all rows; costs are those of all rows.
    """
    part = np.ones(len(rows), np.bool_) if part is None else part
    draws = np.ones((1, len(rows)), np.uint16) if draws is None else draws
    order, asked = plan.order(rows), plan.asked(rows)
    can_stay = np.ones(len(rows), np.bool_) if plan.way == "before" else asked
    _, block = np.unique(-order, return_inverse=True)
    blocks = int(block.max()) + 1
    stays = np.zeros(blocks, np.bool_)
    stays[block] = can_stay
    sent, kept = plan.costs(rows)
    costs, losses, large = [], [], np.empty(len(draws))
    for i, drawn in enumerate(draws):
        weights = drawn / drawn.sum()
        saved = np.bincount(block, weights * (sent - kept), blocks)[stays]
        lost = np.bincount(block, weights * part * (rows.large - rows.small), blocks)[stays]
        unit = float(weights @ rows.large_cost)
        cost = (float(weights @ sent) - np.concatenate([[0.0], np.cumsum(saved)])) / unit
        # A row that is dearer on the small model saves nothing; interpolation needs costs in order.
        costs.append(np.minimum.accumulate(cost))
        losses.append(np.concatenate([[0.0], np.cumsum(lost)]))
        large[i] = weights @ rows.large
    share = np.concatenate([[0.0], np.cumsum(np.bincount(block, part, blocks)[stays])]) / len(rows)
    return CostCurve(costs, losses, large, share)


def surely_reaches(rows: PricedRows, plan: Plan, cost: float) -> bool:
    """Whether other rows like these can cost as little, but for one case in forty.

    Rows that skip the small model cost the large one in any case, and how many do differs from rows to rows.
    """
    sent, kept = plan.costs(rows)
    least = np.where(plan.asked(rows), kept, sent) / rows.all_large
    error = float(least.std()) / np.sqrt(int(rows.group.max()) + 1)
    return bool(float(least.mean()) + _TWO_SIDES * error <= cost + _TRIFLE)


def points_by(
    rows: PricedRows, plan: Plan, seed: int = 0, resamples: int = 1, confidence: float = CONFIDENCE
) -> list[Point]:
    """The points of a plan, by its order; rows that skip are in none, whatever its threshold."""
    order, prompts = plan.order(rows), [str(number) for number in rows.group]
    points = points_of(order, rows.small, rows.large, prompts, seed, resamples, confidence)
    return [point for point in points if point.threshold > SKIPPED]


def skips(rows: PricedRows) -> list[Plan]:
    """Plans with cuts at every twentieth of the rows by score; none without a router."""
    if rows.score is None:
        return []
    cuts = np.unique(np.quantile(rows.score, _SKIPPED_SHARES))
    return [Plan("both", float(cut)) for cut in cuts.astype(np.float32) if (rows.score < cut).any()]
