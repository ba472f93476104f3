"""Cost-quality curves, and how sure they are: what each share of rows on the small model costs, by bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Draws = NDArray[np.uint16]
"""Small numbers: two bytes for each row and resample."""

STEPS = 1000
"""A curve has a point at every thousandth of the rows, 0 and 1 included."""

SHARES: Floats = np.arange(STEPS + 1) / STEPS


@dataclass(frozen=True, slots=True)
class Rows:
    """What is routed; all of shape [rows].

    Attributes:
        small, large: mean qualities.
        group: number of each row's prompt, from 0; rows of one prompt are drawn together.
    """

    small: Floats
    large: Floats
    group: NDArray[np.intp]

    @classmethod
    def of(cls, small: Floats, large: Floats, prompts: Sequence[str]) -> Rows:
        _, group = np.unique(np.array(prompts, dtype=object), return_inverse=True)
        return cls(small, large, group)

    def draws(self, resamples: int, seed: int) -> Draws:
        """How often each row is in each resample, and once each in the first: shape [1 + resamples, rows]."""
        prompts = int(self.group.max()) + 1
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(prompts, np.full(prompts, 1.0 / prompts), size=resamples)
        return np.concatenate([np.ones((1, len(self.group)), np.uint16), drawn.astype(np.uint16)[:, self.group]])


@dataclass(frozen=True, slots=True)
class Curves:
    """One way to route, on the rows as they are (entry 0) and on every resample of them.

    Attributes:
        loss: shape [1 + resamples, STEPS + 1]: mean of q(L) − q(routed) at each of `SHARES`.
        large: shape [1 + resamples]: mean q(L).
    """

    loss: Floats
    large: Floats

    @property
    def drop(self) -> Floats:
        """Quality drop in percent: shape as `loss`. NaN where the mean of q(L) is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            drop: Floats = np.where(self.large[:, None] == 0, np.nan, 100.0 * self.loss / np.abs(self.large[:, None]))
        return drop

    def gap_difference(self, share: float) -> Floats:
        """Mean quality gap of the rows on small minus that of the others: shape [1 + resamples]."""
        loss, whole = self.loss[:, round(share * STEPS)], self.loss[:, -1]
        difference: Floats = (whole - loss) / (1 - share) - loss / share
        return difference

    def share_within(self, limit: float) -> Floats:
        """The largest cost advantage with a drop of at most `limit` percent: shape [1 + resamples]."""
        return _last(self.drop <= limit + 1e-9)

    def recovered(self) -> Floats:
        """RouteLLM's performance gap recovered, (q(routed) − q(S)) / (q(L) − q(S)): shape as `loss`; its mean over the
        shares is APGR (arXiv 2406.18665, section 4). NaN where the large model is not better."""
        whole = self.loss[:, -1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            recovered: Floats = np.where(whole > 0, 1.0 - self.loss / whole, np.nan)
        return recovered

    def apgr(self) -> Floats:
        """By the trapezoidal rule: shape [1 + resamples]."""
        recovered = self.recovered()
        area: Floats = ((recovered[:, 1:] + recovered[:, :-1]) / 2).mean(axis=1)
        return area

    def large_share_for(self, recovered: float) -> Floats:
        """RouteLLM's CPT: the smallest share of rows on *large* that recovers so much of the gap."""
        reached = self.recovered()
        shares: Floats = np.where(np.isnan(reached[:, 0]), np.nan, 1.0 - _last(reached >= recovered - 1e-9))
        return shares


def curves(scores: NDArray[np.floating], rows: Rows, draws: Draws) -> Curves:
    """Route by `scores`, highest to small first. Rows of equal scores go to small in parts, as chance would send them.

    Costs O(rows) for each draw.
    """
    _, block = np.unique(-scores, return_inverse=True)
    blocks = int(block.max()) + 1
    losses = rows.large - rows.small
    loss, large = np.empty((len(draws), STEPS + 1)), np.empty(len(draws))
    for i, weights in enumerate(draws):
        total = weights.sum()
        x = np.cumsum(np.bincount(block, weights, blocks)) / total
        y = np.cumsum(np.bincount(block, weights * losses, blocks)) / total
        loss[i] = np.interp(SHARES, np.concatenate([[0.0], x]), np.concatenate([[0.0], y]))
        large[i] = weights @ rows.large / total
    return Curves(loss, large)


def random_curves(rows: Rows, draws: Draws) -> Curves:
    """Routing at random: the expected line."""
    return curves(np.zeros(len(rows.group)), rows, draws)


def oracle_curves(rows: Rows, draws: Draws) -> Curves:
    """Routing by the true gaps: no router does better."""
    return curves(rows.small - rows.large, rows, draws)


def interval(values: Floats) -> tuple[float, float]:
    """95 % percentile interval of resampled values; NaN when there are none."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def correlations(first: Floats, second: Floats, draws: Draws) -> Floats:
    """Pearson's r of two columns on each draw: shape [1 + resamples]; NaN where one of them is constant."""
    found = []
    for weights in draws:
        share = weights / weights.sum()
        a, b = first - share @ first, second - share @ second
        scale = np.sqrt((share @ a**2) * (share @ b**2))
        found.append(float(share @ (a * b) / scale) if scale > 1e-15 else float("nan"))
    return np.array(found)


def ranks(values: NDArray[np.floating]) -> Floats:
    """Ranks from 1, equal values share their mean: Pearson's r of ranks is Spearman's."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    shared: Floats = (last - (count - 1) / 2.0)[group]
    return shared


def _last(within: NDArray[np.bool_]) -> Floats:
    """The share at the last true entry of each row; 0 where none is."""
    last = STEPS - np.argmax(within[:, ::-1], axis=1)
    shares: Floats = np.where(within.any(axis=1), last / STEPS, 0.0)
    return shares
