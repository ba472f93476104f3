"""The choice: decide before the small model answers, after it, or both, by what is best at equal total cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from batchroute.router.calibration.drops import CONFIDENCE, points_of
from batchroute.router.calibration.points import CalibrationRule, Point, within

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]
Way = Literal["before", "after", "both"]
WAYS: tuple[Way, ...] = get_args(Way)

SKIPPED = np.float32(-1.0)
"""The confidence of a row that skips the small model: below that of any answer."""

_SKIPPED_SHARES = tuple(share / 100 for share in range(5, 100, 5))
_RESAMPLES, _FEW_RESAMPLES = 300, 30
_TRIFLE = 1e-9


@dataclass(frozen=True, slots=True)
class PricedRows:
    """Rows that both models answered, and what each answer costs; arrays of shape [rows].

    Costs may have any unit: only their ratios count.

    Attributes:
        small, large: mean qualities.
        confidence: of the small model's answers, by a model that was not fitted to the row.
        score: the router's; None without a router. Then nothing can be decided before.
        small_cost: of the small model's answer.
        signal_cost: of what is asked of the small model for its signals alone: the extra samples.
        large_cost: of the large model's answer.
        group: number of each row's prompt, from 0; resamples draw prompts.
        router_cost: of scoring one row.
    """

    small: Floats
    large: Floats
    confidence: Scores
    score: Scores | None
    small_cost: Floats
    signal_cost: Floats
    large_cost: Floats
    group: NDArray[np.intp]
    router_cost: float = 0.0

    def __len__(self) -> int:
        return len(self.small)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> PricedRows:
        """These rows; their prompts are numbered anew."""
        picked = {name: getattr(self, name)[rows] for name in _COLUMNS}
        group = np.unique(self.group[rows], return_inverse=True)[1].astype(np.intp)
        return replace(self, **picked, score=None if self.score is None else self.score[rows], group=group)

    def resampled(self, rng: np.random.Generator) -> PricedRows:
        """As many prompts, drawn with replacement, each drawing a prompt of its own."""
        in_order = np.argsort(self.group, kind="stable")
        rows_of = np.split(in_order, np.flatnonzero(np.diff(self.group[in_order])) + 1)
        drawn = [rows_of[number] for number in rng.integers(0, len(rows_of), len(rows_of))]
        group = np.repeat(np.arange(len(drawn)), [len(rows) for rows in drawn])
        return replace(self.take(np.concatenate(drawn)), group=group)

    @property
    def all_large(self) -> float:
        """Mean cost of a row if the large model answers all of them, without a router: the unit of total costs."""
        return float(self.large_cost.mean())

    def cost_of_share(self, share: float) -> float:
        """Total cost, in units of `all_large`, if a share of the rows drawn at random is decided on before, and goes to
        the small model: the cost at which ways are compared at this cost advantage."""
        cost = share * float(self.small_cost.mean()) + (1.0 - share) * self.all_large
        return cost / self.all_large

    def draws(self, resamples: int, seed: int) -> NDArray[np.uint16]:
        """How often each resample holds each row: shape [1 + resamples, rows]; entry 0 holds each row once."""
        prompts = int(self.group.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1.0 / prompts), size=resamples)
        once = np.ones((1, len(self)), np.uint16)
        return np.concatenate([once, drawn.astype(np.uint16)[:, self.group]])


_COLUMNS = ("small", "large", "confidence", "small_cost", "signal_cost", "large_cost")


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

    Args:
        ways: those that the policy leaves open.
        cost: in units of `PricedRows.all_large`, such as from `PricedRows.cost_of_share`; at least what the cheapest
            way costs.
    """
    draws = rows.draws(_RESAMPLES, seed)
    cost = max(cost, min(float(curve(rows, plan).cost[0][-1]) for plan in _unskipping(rows, ways)))
    return _best(
        rows,
        ways,
        lambda plan: float(curve(rows, plan).drop_at(cost)[0]),
        lambda plan: curve(rows, plan, draws).drop_at(cost)[1:],
        f"at {cost:.0%} of the cost of all rows on the large model the quality drop is",
    )


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
        f"for a quality drop within {limit:g} % ({rule}) the cost, relative to all rows on the large model, is",
    )


def bounds_among(ways: int) -> float:
    """The confidence of the bounds of each of several ways, of which the cheapest will be taken.

    Each may break its limit in a share of the nights, and the one that breaks it looks cheap. So they share that chance
    (Bonferroni). The price is room: with three ways the bounds are wider by a third.
    """
    return 1.0 - (1.0 - CONFIDENCE) / max(1, ways)


def points_by(
    rows: PricedRows, plan: Plan, seed: int = 0, resamples: int = 1, confidence: float = CONFIDENCE
) -> list[Point]:
    """The points of a plan, by its order; rows that skip are in none, whatever its threshold."""
    order, prompts = plan.order(rows), [str(number) for number in rows.group]
    points = points_of(order, rows.small, rows.large, prompts, seed, resamples, confidence)
    return [point for point in points if point.threshold > SKIPPED]


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
    about: str,
) -> Choice:
    """The plan with the lowest figure of deciding before and after; a cut is better only by more than the error.

    The cut is the best of many, so a smaller lead is mostly luck.

    Args:
        figure: of a plan, in percent.
        resampled: figures of a plan on resamples of the rows, the same for all plans.
    """
    plans = _unskipping(rows, ways)
    found = {plan: figure(plan) for plan in plans}
    best = min(plans, key=lambda plan: found[plan])
    cuts = {plan: figure(plan) for plan in skips(rows)} if "both" in ways else {}
    if cuts:
        skip = min(cuts, key=lambda plan: cuts[plan])
        found[skip] = cuts[skip]
    draws = {plan: resampled(plan) for plan in found}
    if cuts and found[best] - found[skip] > _deviation(draws[best] - draws[skip]):
        best = skip
    figures = {plan.way: value for plan, value in found.items()}
    errors = {plan.way: 0.0 if plan == best else _deviation(draws[plan] - draws[best]) for plan in found}
    return Choice(best, figures, errors, _why(rows, best, about, figures, errors))


def _unskipping(rows: PricedRows, ways: Sequence[Way]) -> list[Plan]:
    return [Plan("after")] if rows.score is None or "before" not in ways else [Plan("before"), Plan("after")]


def skips(rows: PricedRows) -> list[Plan]:
    """Plans with cuts at every twentieth of the rows by score; none without a router."""
    if rows.score is None:
        return []
    cuts = np.unique(np.quantile(rows.score, _SKIPPED_SHARES))
    return [Plan("both", float(cut)) for cut in cuts.astype(np.float32) if (rows.score < cut).any()]


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
