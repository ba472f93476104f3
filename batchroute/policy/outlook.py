"""The outlook: what routing rows one way or another is expected to cost, and to lose in quality."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.costs.prices import PICO
from batchroute.fields import SIDES, Side
from batchroute.policy.budget import Priced
from batchroute.policy.decision import Groups, Picos, RowsToRoute
from batchroute.policy.expected_costs import ModelCosts
from batchroute.policy.forecast import Curve, Forecast, Range
from batchroute.policy.settings import Rule, Scores
from batchroute.router.calibration.points import Calibration

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_STEPS = 20
_ALTERNATIVES = ("0.1", "0.3", "0.5", "0.7", "0.9")
_Z = 1.96
_EVERYTHING = 1.0


@dataclass(frozen=True)
class Outlook:
    """The rows of a run, or a sample of them, with expected gains and costs; arrays of shape [rows].

    Attributes:
        gains: expected q(L) − q(S). Without a calibration that gives it, 1 − score: an order without a unit.
        costs: by side; None if unknown.
        spent: the router's cost in pico-dollars, which every decision pays.
        whole: number of rows of the run; more than the rows here if they are a sample.
        known: rows of the calibration with the same prices, and their true gains.
        after: the small model has answered all rows, and `costs` holds what that cost: the decision is which answers to
            keep, and both models are paid for the other rows.
        taken: rows of tonight's calibration: both models have answered them, for money that is part of `spent`.
    """

    scores: Scores
    routable: Mask
    gains: Floats
    costs: dict[Side, ModelCosts | None]
    calibration: Calibration | None
    spent: int
    whole: int
    known: tuple[Priced, Floats] | None = None
    after: bool = False
    taken: Mask | None = None

    @functools.cached_property
    def easiest(self) -> NDArray[np.intp]:
        """Indices of the routable rows that have a score, highest first."""
        rows = np.flatnonzero(self.routable & ~np.isnan(self.scores))
        easiest: NDArray[np.intp] = rows[np.argsort(-self.scores[rows], kind="stable")]
        return easiest

    @functools.cached_property
    def _gains_of_easiest(self) -> Floats:
        """Total gain of the first 0, 1, 2, … of `easiest`."""
        return np.concatenate([[0.0], np.cumsum(self.gains[self.easiest])])

    def rows(self, groups: Groups | None = None) -> RowsToRoute:
        """The rows for `decide`."""
        small, large = (self.costs[side] for side in SIDES)
        answers, again = (None if costs is None else self._still_to_pay(costs.picos) for costs in (small, large))
        rows = RowsToRoute(self.scores, self.routable, groups, self.gains, answers, again, self.known)
        if not self.after or answers is None or large is None:
            return rows
        return dataclasses.replace(
            rows, small=np.zeros_like(answers), paid=answers, error=large.error, spread=large.spread
        )

    def _still_to_pay(self, picos: Picos) -> Picos:
        return picos if self.taken is None else np.where(self.taken, 0, picos)

    def forecast(self, small: Mask, policy: str) -> Forecast:
        """The forecast for sending `small` rows to the small model, and all other routable rows to the large model."""
        routed = int(self.routable.sum())
        chosen = small & self.routable
        other = self.routable & ~chosen
        if self.taken is not None:
            other &= ~self.taken
        answered = (chosen | other) if self.after else chosen
        cost, baseline = self._cost({"small": answered, "large": other}, self.spent), self._baseline
        saved = None if cost is None or baseline is None else baseline.value - cost.value
        scale = self._scale
        share = float(chosen.sum()) / routed if routed else 0.0
        return Forecast(
            policy=policy,
            rows=round(routed * scale),
            small=round(float(chosen.sum()) * scale),
            small_share=share,
            cost=cost,
            savings=saved,
            savings_share=None if saved is None or not baseline or not baseline.value else saved / baseline.value,
            drop=self._drop(chosen, share),
        )

    def alternatives(self) -> list[Forecast]:
        """Forecasts for five shares on the same rows."""
        return [self.of(Rule.model_validate({"small_share": share})) for share in _ALTERNATIVES]

    def of(self, rule: Rule) -> Forecast:
        """The forecast for one rule for all rows; not for a budget."""
        at = np.flatnonzero(self.routable)
        small = np.zeros_like(self.routable)
        cutoff = rule.cutoff(self.scores[at], len(at), self.calibration)
        small[at] = cutoff.small(self.scores[at], np.arange(len(at)))
        return self.forecast(small, rule.words)

    def curve(self) -> Curve | None:
        """None if no row is routable."""
        routed = int(self.routable.sum())
        if not routed:
            return None
        forecasts = []
        for step in range(_STEPS + 1):
            small = np.zeros_like(self.routable)
            small[self.easiest[: round(routed * step / _STEPS)]] = True
            forecasts.append(self.forecast(small, ""))
        drops = [forecast.drop for forecast in forecasts if forecast.drop is not None]
        costs = [forecast.cost for forecast in forecasts if forecast.cost is not None]
        return Curve(
            small_share=[forecast.small_share for forecast in forecasts],
            cost=[cost.value for cost in costs] or None,
            drop=[drop.value for drop in drops] or None,
            low=[drop.low for drop in drops] or None,
            high=[drop.high for drop in drops] or None,
        )

    @functools.cached_property
    def _baseline(self) -> Range | None:
        """Cost of all rows on the large model, which needs no router."""
        return self._cost({"small": np.zeros_like(self.routable), "large": self.routable}, 0)

    @property
    def _scale(self) -> float:
        return self.whole / len(self.scores) if len(self.scores) else _EVERYTHING

    def _cost(self, routes: dict[Side, Mask], spent: int) -> Range | None:
        """In dollars, for the rows that each model answers.

        The interval covers the measurement of lengths, the spread of single rows, and sampling.
        """
        if any(self.costs[side] is None for side in SIDES):
            return None
        value, least, variance = float(spent), float(spent), 0.0
        rows = len(self.routable)
        of_rows = np.zeros(rows) if 1 < rows < self.whole else None
        for side, routed in routes.items():
            costs = self.costs[side]
            assert costs is not None
            count, picos = float(routed.sum()) * self._scale, costs.picos[routed]
            value += float(picos.sum()) * self._scale
            least += float((costs.picos if costs.measured else costs.least)[routed].sum()) * self._scale
            variance += (costs.error * count) ** 2 + costs.spread**2 * count
            if of_rows is not None:
                of_rows[routed] += picos
        if of_rows is not None:
            variance += self.whole**2 * float(of_rows.var(ddof=1)) / rows * (1 - rows / self.whole)
        off = _Z * variance**0.5
        # Costs of unmeasured lengths are an upper bound, so their low end is the cost without any response.
        return Range(value=value / PICO, low=max(0.0, min(least, value) - off) / PICO, high=(value + off) / PICO)

    def _drop(self, small: Mask, share: float) -> Range | None:
        """In percent: the calibration's drop at this cost advantage, which has the easiest rows on the small model. If
        `small` are not the easiest rows, their expected extra loss is added."""
        if self.calibration is None or self.calibration.gain is None:
            return None
        routed = int(self.routable.sum())
        if not routed:
            return None
        points = self.calibration.points
        shares = [0.0, *(point.cost_advantage for point in points)]
        drop, low, high = (
            float(np.interp(share, shares, [0.0, *(getattr(point, name) for point in points)]))
            for name in ("drop", "drop_low", "drop_high")
        )
        count = int((small & ~np.isnan(self.scores)).sum())
        more = float(np.nansum(self.gains[small])) - float(self._gains_of_easiest[count])
        other = 100.0 * more / routed / abs(self.calibration.gain.large_mean)
        return Range(value=drop + other, low=low + other, high=high + other)


def gains_of(scores: Scores, tokens: NDArray[np.int32], calibration: Calibration | None) -> Floats:
    """See `Outlook.gains`."""
    gain = None if calibration is None else calibration.gain
    return 1.0 - scores.astype(np.float64) if gain is None else gain.of(scores, tokens)
