"""Evaluating when to decide: before the small model answers, after it, or both, at equal total cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute.confidence.choice import choose_at
from batchroute.confidence.plans import CostCurve, Plan, curve, skips, surely_reaches
from batchroute.confidence.rows import PricedRows
from batchroute.router.evaluation.curves import MeanQualities, curves
from batchroute.router.evaluation.scorecard import Estimate, drops, key

Floats = NDArray[np.float64]
Draws = NDArray[np.uint16]

SHARES = (0.1, 0.2, 0.4, 0.6)
"""Cost advantages at which ways are compared: each may cost what this share of all rows, drawn at random, costs if it
goes to the small model and the others to the large one."""

_FOLDS = 5
_GRID_STEPS = 50


class WayCurve(BaseModel):
    """Quality drop by total cost, in percent of the large model's cost for all rows; with a 95 % band."""

    model_config = ConfigDict(frozen=True)

    cost: list[float]
    drop: list[float]
    low: list[float]
    high: list[float]


class WayFigures(BaseModel):
    """One way to decide. Keys are cost advantages in percent.

    Attributes:
        drop: quality drop in percent at that total cost; null where the way costs more in any case.
        difference: the drop minus that of deciding before (without a router: at random), in points, on the same
            resamples: below 0 this way is better.
        stays: share of the rows whose answer is the small model's, in percent.
        drop_at_share: the drop if exactly the cost advantage stays on the small model, whatever it costs; empty for
            ways that depend on the cost.
    """

    model_config = ConfigDict(frozen=True)

    drop: dict[str, Estimate]
    difference: dict[str, Estimate]
    stays: dict[str, float | None]
    drop_at_share: dict[str, Estimate] = {}
    curve: WayCurve | None = None


@dataclass(frozen=True, slots=True)
class _Losses:
    """Losses by total cost over all draws, and where the way is possible.

    Attributes:
        at: shape [draws, costs].
        possible: shape [costs].
        stays: shape [costs]: share of the rows that stay on the small model.
        by_share: see `WayFigures.drop_at_share`.
    """

    at: Floats
    possible: NDArray[np.bool_]
    stays: Floats
    by_share: dict[str, Estimate] = field(default_factory=dict)


def figures(rows: PricedRows, resamples: int, seed: int) -> tuple[dict[str, WayFigures], dict[str, float]]:
    """The figures of each way, and the total costs of `SHARES` in percent.

    Args:
        rows: that no router and no confidence was fitted to.
    """
    draws = rows.draws(resamples, seed)
    large = np.array([drawn @ rows.large / drawn.sum() for drawn in draws])
    at = np.array([rows.cost_of_share(share) for share in SHARES])
    grid = np.linspace(min(at.min(), rows.cost_of_share(1.0)), 1.0, _GRID_STEPS + 1)
    costs = np.concatenate([at, grid])
    ways = {"after": _fixed(rows, Plan("after"), costs, draws)}
    if rows.score is not None:
        ways = {"before": _fixed(rows, Plan("before"), costs, draws), **ways}
        ways["both"] = _by_folds(
            rows, [_best_skips(rows, fold, costs) for fold in _folds(rows, seed)], costs, draws, seed
        )
    ways["auto"] = _by_folds(rows, [_choices(rows, fold, at, costs) for fold in _folds(rows, seed)], costs, draws, seed)
    for name, order in (("random", np.zeros(len(rows))), ("perfect", rows.small - rows.large)):
        ways[name] = _fixed(_decided_before(rows, order), Plan("before"), costs, draws)
    first = ways["before" if rows.score is not None else "random"]
    found = {name: _figures(losses, first, large, grid, name != "auto") for name, losses in ways.items()}
    return found, {key(share): 100.0 * float(cost) for share, cost in zip(SHARES, at, strict=True)}


def choices(rows: PricedRows, seed: int) -> dict[str, str]:
    """By cost advantage, the way that all rows show to be best, and why."""
    return {key(share): choose_at(rows, rows.cost_of_share(share), seed).why for share in SHARES}


def _decided_before(rows: PricedRows, order: Floats) -> PricedRows:
    """The same rows, with another score, which costs nothing."""
    known = {name: getattr(rows, name) for name in rows.__slots__}
    return PricedRows(**{**known, "score": order.astype(np.float32), "router_cost": 0.0})


def _fixed(rows: PricedRows, plan: Plan, costs: Floats, draws: Draws) -> _Losses:
    routed = curve(rows, plan, draws)
    by_share = drops(curves(plan.order(rows), MeanQualities(rows.small, rows.large, rows.group), draws), SHARES)
    possible = np.array([routed.reaches(cost) for cost in costs])
    return _Losses(routed.loss_at(costs), possible, _stays(routed, costs), by_share)


def _stays(routed: CostCurve, costs: Floats) -> Floats:
    stays: Floats = np.interp(costs, routed.cost[0][::-1], routed.stays[::-1])
    return stays


def _folds(rows: PricedRows, seed: int) -> list[NDArray[np.bool_]]:
    """Masks of the rows of each fold; the rows of a prompt are in one."""
    number = np.random.default_rng(seed).permutation(int(rows.group.max()) + 1)[rows.group] % _FOLDS
    return [number == fold for fold in range(_FOLDS)]


def _best_skips(rows: PricedRows, fold: NDArray[np.bool_], costs: Floats) -> list[Plan]:
    """The best cut of the other folds' rows at each cost."""
    others = rows.take(~fold)
    plans = [*skips(others), Plan("after")]
    routed = [curve(others, plan) for plan in plans]
    losses = np.stack([one.loss_at(costs)[0] for one in routed])
    possible = [
        [one.reaches(cost) if plan.skip is None else surely_reaches(others, plan, cost) for cost in costs]
        for plan, one in zip(plans, routed, strict=True)
    ]
    losses[~np.array(possible)] = np.inf
    return [plans[best] for best in losses.argmin(axis=0)]


def _choices(rows: PricedRows, fold: NDArray[np.bool_], at: Floats, costs: Floats) -> list[Plan]:
    """What the other folds' rows show to be best at the costs `at`, which begin `costs`; no curve is made of others."""
    others = rows.take(~fold)
    chosen = [choose_at(others, float(cost)).plan for cost in at]
    return chosen + [chosen[-1]] * (len(costs) - len(at))


def _by_folds(rows: PricedRows, plans: Sequence[Sequence[Plan]], costs: Floats, draws: Draws, seed: int) -> _Losses:
    """Each fold's rows by the plans of its own, one for each cost; the threshold is the plan's over all rows."""
    at, stays = np.zeros((len(draws), len(costs))), np.zeros(len(costs))
    possible = np.ones(len(costs), np.bool_)
    for fold, of_fold in zip(_folds(rows, seed), plans, strict=True):
        for plan in dict.fromkeys(of_fold):
            chosen = np.array([one == plan for one in of_fold])
            routed = curve(rows, plan, draws, fold)
            at[:, chosen] += routed.loss_at(costs[chosen])
            stays[chosen] += _stays(routed, costs[chosen])
            possible[chosen] &= [routed.reaches(cost) for cost in costs[chosen]]
    return _Losses(at, possible, stays)


def _figures(losses: _Losses, first: _Losses, large: Floats, grid: Floats, with_curve: bool) -> WayFigures:
    scale = 100.0 / np.abs(large)[:, None]
    found, firsts = losses.at * scale, first.at * scale
    drop, difference, stays = {}, {}, {}
    for place, share in enumerate(SHARES):
        possible = bool(losses.possible[place])
        nothing = Estimate(value=None, low=None, high=None)
        drop[key(share)] = Estimate.of(found[:, place]) if possible else nothing
        difference[key(share)] = Estimate.of(found[:, place] - firsts[:, place]) if possible else nothing
        stays[key(share)] = 100.0 * float(losses.stays[place]) if possible else None
    kept = np.flatnonzero(losses.possible[len(SHARES) :])
    shown = found[:, len(SHARES) :][:, kept]
    low, high = np.quantile(shown[1:], [0.025, 0.975], axis=0)
    line = WayCurve(cost=(100.0 * grid[kept]).tolist(), drop=shown[0].tolist(), low=low.tolist(), high=high.tolist())
    return WayFigures(
        drop=drop, difference=difference, stays=stays, drop_at_share=losses.by_share, curve=line if with_curve else None
    )
