"""The outlook: what sending rows to the one or the other model is expected to cost and to lose."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.costs.prices import PICO
from batchroute.fields import SIDES, Side
from batchroute.policy.budget import Priced
from batchroute.policy.decision import Groups, Rows
from batchroute.policy.expected_costs import ModelCosts
from batchroute.policy.forecast import Curve, Forecast, Range
from batchroute.policy.settings import Rule, Scores
from batchroute.router.calibration.calibrate import Calibration

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_STEPS = 20
_ALTERNATIVES = ("0.1", "0.3", "0.5", "0.7", "0.9")
_Z = 1.96
_EVERYTHING = 1.0


@dataclass(frozen=True)
class Outlook:
    """Rows that can be routed, with what is known of them; arrays of shape [rows].

    Attributes:
        gains: expected q(L) − q(S); without a calibration that tells it 1 − score, an order without a unit.
        costs: by side; None where they cannot be told.
        spent: pico-dollars that are spent whatever is decided: the router's.
        whole: rows of the run that these stand for: more than there are where they are a sample.
        known: rows of the calibration, priced as these are, and their true gains.
    """

    scores: Scores
    routable: Mask
    gains: Floats
    costs: dict[Side, ModelCosts | None]
    calibration: Calibration | None
    spent: int
    whole: int
    known: tuple[Priced, Floats] | None = None

    @functools.cached_property
    def easiest(self) -> NDArray[np.intp]:
        """The rows that can be routed and have a score, the highest first."""
        rows = np.flatnonzero(self.routable & ~np.isnan(self.scores))
        found: NDArray[np.intp] = rows[np.argsort(-self.scores[rows], kind="stable")]
        return found

    @functools.cached_property
    def _gains_of_easiest(self) -> Floats:
        """Summed over the first 0, 1, 2, … of them."""
        return np.concatenate([[0.0], np.cumsum(self.gains[self.easiest])])

    def rows(self, groups: Groups | None = None) -> Rows:
        """What a policy decides on."""
        small, large = (self.costs[side] for side in SIDES)
        return Rows(
            self.scores,
            self.routable,
            groups,
            self.gains,
            None if small is None else small.picos,
            None if large is None else large.picos,
            self.known,
        )

    def forecast(self, small: Mask, policy: str) -> Forecast:
        """What it costs and loses to send these rows to the small model, and the others to the large one."""
        routed = int(self.routable.sum())
        chosen = small & self.routable
        cost, baseline = self._cost(chosen, self.spent), self._baseline
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
        """Five other policies over the same rows."""
        return [self.of(Rule.model_validate({"small_share": share})) for share in _ALTERNATIVES]

    def of(self, rule: Rule) -> Forecast:
        """Of one way for all rows, that needs no costs."""
        at = np.flatnonzero(self.routable)
        small = np.zeros_like(self.routable)
        cutoff = rule.decide(self.scores[at], len(at), self.calibration)
        small[at] = cutoff.small(self.scores[at], np.arange(len(at)))
        return self.forecast(small, rule.words)

    def curve(self) -> Curve | None:
        """None when there is no row to route."""
        routed = int(self.routable.sum())
        if not routed:
            return None
        found = []
        for step in range(_STEPS + 1):
            small = np.zeros_like(self.routable)
            small[self.easiest[: round(routed * step / _STEPS)]] = True
            found.append(self.forecast(small, ""))
        drops = [forecast.drop for forecast in found if forecast.drop is not None]
        costs = [forecast.cost for forecast in found if forecast.cost is not None]
        return Curve(
            small_share=[forecast.small_share for forecast in found],
            cost=[cost.value for cost in costs] or None,
            drop=[drop.value for drop in drops] or None,
            low=[drop.low for drop in drops] or None,
            high=[drop.high for drop in drops] or None,
        )

    @functools.cached_property
    def _baseline(self) -> Range | None:
        """Of all rows on the large model, which needs no router."""
        return self._cost(np.zeros_like(self.routable), 0)

    @property
    def _scale(self) -> float:
        return self.whole / len(self.scores) if len(self.scores) else _EVERYTHING

    def _cost(self, small: Mask, spent: int) -> Range | None:
        """In dollars, with what the lengths' measurement, single rows and, of a sample, the drawing leave open."""
        if any(self.costs[side] is None for side in SIDES):
            return None
        value, least, variance = float(spent), float(spent), 0.0
        rows = len(small)
        of_rows = np.zeros(rows) if 1 < rows < self.whole else None
        for side, mine in (("small", small), ("large", self.routable & ~small)):
            costs = self.costs[side]  # type: ignore[index]
            assert costs is not None
            count, picos = float(mine.sum()) * self._scale, costs.picos[mine]
            value += float(picos.sum()) * self._scale
            least += float((costs.picos if costs.measured else costs.least)[mine].sum()) * self._scale
            variance += (costs.error * count) ** 2 + costs.spread**2 * count
            if of_rows is not None:
                of_rows[mine] = picos
        if of_rows is not None:
            variance += self.whole**2 * float(of_rows.var(ddof=1)) / rows * (1 - rows / self.whole)
        off = _Z * variance**0.5
        # What nothing was measured of is an upper bound: above it there is only the drawing of the sample.
        return Range(value=value / PICO, low=max(0.0, min(least, value) - off) / PICO, high=(value + off) / PICO)

    def _drop(self, small: Mask, share: float) -> Range | None:
        """In percent: what the calibration rows lost at this share, the easiest of them on small; and, where these are
        not the easiest rows, what is expected to be lost more than by the easiest."""
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
