"""The choice: decide before the small model answers, after it, or both, by what is best at equal total cost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.confidence.plans import WAYS, Plan, Way, curve, points_by, skips, surely_reaches
from batchroute.confidence.rows import Floats, PricedRows
from batchroute.router.calibration.drops import CONFIDENCE
from batchroute.router.calibration.points import CalibrationRule, within

_RESAMPLES, _FEW_RESAMPLES = 150, 30


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan that calibration rows show to be best.

    Attributes:
        figures: by way, what was compared, in percent: the quality drop at equal total cost, infinite for a way that
            costs more than that in any case; or the total cost at the same limit on the drop, relative to all rows on
            the large model. A way that is not possible without a router is left out.
        errors: by way, the standard error of its figure minus the chosen plan's; 0 for the chosen plan.
        why: one sentence with the figures.
    """

    plan: Plan
    figures: dict[Way, float]
    errors: dict[Way, float]
    why: str


def choose_at(rows: PricedRows, cost: float, seed: int = 0, ways: Sequence[Way] = WAYS) -> Choice:
    """The plan of the lowest quality drop at a total cost.

    What a plan loses beside the first one has two estimates: that of the rows, which is right on average but noisy (by
    it alone, 200 rows took the worse way so often that it cost over a point), and that of the rows smoothed, which is
    steady. Smoothed by the confidence they see the score only as far as the confidence does, which flatters deciding
    after; smoothed by both they have a slope more that luck can lift, which flatters deciding before; so the mean of
    the two counts. `shrunk` says how far each estimate is followed. Of the cuts only the best by the smoothed rows is
    looked at: the best of nineteen by the rows themselves is mostly luck.

    Args:
        ways: those that the policy leaves open.
        cost: in units of `PricedRows.all_large`, such as from `PricedRows.cost_of_share`; at least what the cheapest
            way costs.
    """
    draws = rows.draws(_RESAMPLES, seed)
    plans = _unskipping(rows, ways)
    cost = max(cost, min(float(curve(rows, plan).cost[0][-1]) for plan in plans))
    smoothed = [rows.smoothed(by_score) for by_score in (False, True)]
    # A plan that cannot cost as little has an infinite drop.
    first = next(plan for plan in plans if curve(rows, plan).reaches(cost))

    @functools.cache
    def drops(plan: Plan) -> tuple[Floats, Floats]:
        return curve(rows, plan, draws).drop_at(cost), steady(plan, draws)

    def steady(plan: Plan, draws: NDArray[np.uint16] | None = None) -> Floats:
        drops: Floats = np.mean([curve(some, plan, draws).drop_at(cost) for some in smoothed], axis=0)
        return drops

    def figure(plan: Plan) -> float:
        (own, smooth), (firsts, smooth_firsts) = drops(plan), drops(first)
        if not np.isfinite(own[0]) or plan == first:
            return float(own[0])
        apart, steady_apart = own - firsts, smooth - smooth_firsts
        return float(firsts[0]) + shrunk(apart[0], steady_apart[0], _deviation((apart - steady_apart)[1:]))

    cuts = [plan for plan in skips(rows) if surely_reaches(rows, plan, cost)]
    return _best(
        rows,
        ways,
        figure,
        lambda plan: drops(plan)[0][1:],
        sorted(cuts, key=lambda plan: float(steady(plan)[0]))[:1],
        f"at {cost:.0%} of the cost of all rows on the large model the quality drop is estimated at",
    )


def shrunk(noisy: float, steady: float, error: float) -> float:
    """An estimate that is right on average but noisy, drawn towards a steady one that may be wrong.

    The positive part of James and Stein's rule: the noisy estimate counts as far as the two differ by more than chance
    would have them differ. So with many rows it alone counts, whatever the steady one misses, and with few rows hardly.

    Args:
        error: the standard error of the difference of the two.
    """
    apart = noisy - steady
    follows = max(0.0, 1.0 - (error / apart) ** 2) if apart else 0.0
    return steady + follows * apart


def choose_within(
    rows: PricedRows, limit: float, rule: CalibrationRule, seed: int = 0, ways: Sequence[Way] = WAYS
) -> Choice:
    """The plan of the lowest total cost that keeps the drop within `limit` percent by the rule; for `ways` see
    `choose_at`. The bounds are those of `bounds_among`.
    """
    confidence = bounds_among(len(ways) if rows.score is not None else 1)
    rng = np.random.default_rng(seed)
    resamples = [rows.resampled(rng) for _ in range(_FEW_RESAMPLES)]
    return _best(
        rows,
        ways,
        lambda plan: _cost_within(rows, plan, limit, rule, confidence),
        lambda plan: np.array([_cost_within(some, plan, limit, rule, confidence) for some in resamples]),
        skips(rows),
        f"for a quality drop within {limit:g} % ({rule}) the cost, relative to all rows on the large model, is",
    )


def bounds_among(ways: int) -> float:
    """The confidence of the bounds of each of several ways, of which the cheapest will be taken.

    Each may break its limit in a share of the nights, and the one that breaks it looks cheap. So they share that chance
    (Bonferroni). The price is room: with three ways the bounds are wider by a third.
    """
    return 1.0 - (1.0 - CONFIDENCE) / max(1, ways)


def _cost_within(rows: PricedRows, plan: Plan, limit: float, rule: CalibrationRule, confidence: float) -> float:
    """In percent of the large model's cost for all rows."""
    point = within(points_by(rows, plan, confidence=confidence), limit, rule)
    sent, kept = plan.costs(rows)
    stays = np.zeros(len(rows), np.bool_) if point is None else plan.order(rows) >= np.float32(point.threshold)
    return 100.0 * float(np.where(stays, kept, sent).mean()) / rows.all_large


def _best(
    rows: PricedRows,
    ways: Sequence[Way],
    figure: Callable[[Plan], float],
    resampled: Callable[[Plan], Floats],
    cuts: Sequence[Plan],
    about: str,
) -> Choice:
    """The plan with the lowest figure of deciding before and after; a cut is better only by more than the error.

    The cut is the best of many, so a smaller lead is mostly luck.

    Args:
        figure: of a plan, in percent.
        resampled: figures of a plan on resamples of the rows, the same for all plans.
        cuts: plans of `both`.
    """
    plans = _unskipping(rows, ways)
    found = {plan: figure(plan) for plan in plans}
    best = min(plans, key=lambda plan: found[plan])
    by_cut = {plan: figure(plan) for plan in cuts} if "both" in ways else {}
    if by_cut:
        skip = min(by_cut, key=lambda plan: by_cut[plan])
        found[skip] = by_cut[skip]
    draws = {plan: resampled(plan) for plan in found}
    if by_cut and found[best] - found[skip] > _deviation(draws[best] - draws[skip]):
        best = skip
    figures = {plan.way: value for plan, value in found.items()}
    errors = {plan.way: 0.0 if plan == best else _deviation(draws[plan] - draws[best]) for plan in found}
    return Choice(best, figures, errors, _why(rows, best, about, figures, errors))


def _unskipping(rows: PricedRows, ways: Sequence[Way]) -> list[Plan]:
    return [Plan("after")] if rows.score is None or "before" not in ways else [Plan("before"), Plan("after")]


def _deviation(values: Floats) -> float:
    """Standard deviation over resamples; infinite where some cannot be compared."""
    return float(np.std(values, ddof=1)) if np.isfinite(values).all() else float("inf")


def _why(rows: PricedRows, plan: Plan, about: str, figures: dict[Way, float], errors: dict[Way, float]) -> str:
    chosen = figures[plan.way]
    others = [
        f"{value:.1f} % {way} ({value - chosen:+.1f} ± {errors[way]:.1f} points)".replace("-", "−")
        if np.isfinite(value)
        else f"{way} costs more than that in any case"
        for way, value in figures.items()
        if way != plan.way
    ]
    what: str = plan.way
    if plan.skip is not None:
        skipped = float((~plan.asked(rows)).mean())
        what += f" (the {skipped:.0%} of the rows with a score below {plan.skip:.4f} skip the small model)"
    against = f"; {', '.join(others)}" if others else ""
    prompts = int(rows.group.max()) + 1
    return f"{what}: {about} {chosen:.1f} %{against}; measured on {prompts:,} calibration prompts"
