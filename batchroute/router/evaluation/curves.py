"""Cost-quality curves: the quality drop at each cost advantage, with resamples for confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.errors import InputError

Floats = NDArray[np.float64]
Draws = NDArray[np.uint16]
"""Two bytes for each row and resample."""

COST_ADVANTAGES = (0.1, 0.2, 0.4)
"""The shares of rows on the small model that the paper reports ("Hybrid LLM", Tables 1 and 2)."""

STEPS = 1000
"""A curve has a point at every thousandth of the rows, 0 and 1 included."""

SHARES: Floats = np.arange(STEPS + 1) / STEPS


@dataclass(frozen=True, slots=True)
class MeanQualities:
    """Mean quality of each model's responses to each row; arrays of shape [rows].

    Attributes:
        group: number of each row's prompt, from 0. Resampling draws prompts, so rows of one prompt stay together.
    """

    small: Floats
    large: Floats
    group: NDArray[np.intp]

    @classmethod
    def of(cls, small: Floats, large: Floats, prompts: Sequence[str]) -> MeanQualities:
        _, group = np.unique(np.array(prompts, dtype=object), return_inverse=True)
        return cls(small, large, group)

    @property
    def gap(self) -> Floats:
        """The quality gap q(S) − q(L)."""
        return self.small - self.large

    def check(self, where: str = "") -> None:
        """Raises:
        InputError: the large model's mean quality is 0.
        """
        if self.large.mean() == 0.0:
            raise InputError(
                f"the large model's mean quality{where} is 0, so a drop in percent means nothing: shift the metric"
            )

    def draws(self, resamples: int, seed: int) -> Draws:
        """How often each resample holds each row: shape [1 + resamples, rows]; entry 0 holds each row once."""
        prompts = int(self.group.max()) + 1
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(prompts, np.full(prompts, 1.0 / prompts), size=resamples)
        return np.concatenate([self.once(), drawn.astype(np.uint16)[:, self.group]])

    def once(self) -> Draws:
        """Entry 0 of `draws` alone, for figures without an interval: shape [1, rows]."""
        return np.ones((1, len(self.group)), np.uint16)


@dataclass(frozen=True, slots=True)
class Curves:
    """One way to route, on the rows as they are (entry 0) and on each resample.

    Attributes:
        loss: shape [1 + resamples, STEPS + 1]: mean of q(L) − q(routed) at each of `SHARES`.
        large: shape [1 + resamples]: mean q(L).
    """

    loss: Floats
    large: Floats

    @property
    def drop(self) -> Floats:
        """Quality drop (mean q(L) − mean q(routed)) / |mean q(L)| in percent: shape as `loss`; NaN for a mean of 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            drop: Floats = np.where(self.large[:, None] == 0, np.nan, 100.0 * self.loss / np.abs(self.large[:, None]))
        return drop

    def drop_at(self, share: float) -> Floats:
        """Quality drop at a cost advantage, in percent: shape [1 + resamples]."""
        return self.drop[:, round(share * STEPS)]

    def gap_difference(self, share: float) -> Floats:
        """Mean quality gap of the rows on the small model minus that of the other rows: shape [1 + resamples].

        "Hybrid LLM" (arXiv 2404.14618), section 4.3.
        """
        loss, whole = self.loss[:, round(share * STEPS)], self.loss[:, -1]
        difference: Floats = (whole - loss) / (1 - share) - loss / share
        return difference

    def share_within(self, limit: float) -> Floats:
        """The largest cost advantage with a drop of at most `limit` percent: shape [1 + resamples]."""
        return _last(self.drop <= limit + 1e-9)

    def recovered(self) -> Floats:
        """RouteLLM's performance gap recovered, (q(routed) − q(S)) / (q(L) − q(S)): shape as `loss`.

        Its mean over the shares is APGR (arXiv 2406.18665, section 4). NaN where the large model is not better.
        """
        whole = self.loss[:, -1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            recovered: Floats = np.where(whole > 0, 1.0 - self.loss / whole, np.nan)
        return recovered

    def apgr(self) -> Floats:
        """RouteLLM's APGR, by the trapezoidal rule: shape [1 + resamples]."""
        recovered = self.recovered()
        area: Floats = ((recovered[:, 1:] + recovered[:, :-1]) / 2).mean(axis=1)
        return area

    def large_share_for(self, recovered: float) -> Floats:
        """RouteLLM's CPT: the smallest share of rows on the *large* model that recovers this part of the gap."""
        reached = self.recovered()
        shares: Floats = np.where(np.isnan(reached[:, 0]), np.nan, 1.0 - _last(reached >= recovered - 1e-9))
        return shares


def curves(scores: NDArray[np.floating], qualities: MeanQualities, draws: Draws | None = None) -> Curves:
    """Route by `scores`: the highest scores go to the small model first. O(rows) for each draw.

    Rows of equal scores lose their average, as a random choice among them would on average, so a curve does not depend
    on the order of the rows.

    Args:
        scores: shape [rows].
        draws: see `MeanQualities.draws`; the rows as they are, unless given.
    """
    draws = qualities.once() if draws is None else draws
    _, block = np.unique(-scores, return_inverse=True)
    blocks = int(block.max()) + 1
    losses = -qualities.gap
    loss, large = np.empty((len(draws), STEPS + 1)), np.empty(len(draws))
    for i, weights in enumerate(draws):
        total = weights.sum()
        x = np.cumsum(np.bincount(block, weights, blocks)) / total
        y = np.cumsum(np.bincount(block, weights * losses, blocks)) / total
        loss[i] = np.interp(SHARES, np.concatenate([[0.0], x]), np.concatenate([[0.0], y]))
        large[i] = weights @ qualities.large / total
    return Curves(loss, large)


def random_curves(qualities: MeanQualities, draws: Draws | None = None) -> Curves:
    """Routing at random, on average."""
    return curves(np.zeros(len(qualities.group)), qualities, draws)


def oracle_curves(qualities: MeanQualities, draws: Draws | None = None) -> Curves:
    """Perfect routing, by the true quality gaps: no router does better."""
    return curves(qualities.gap, qualities, draws)


def interval(values: Floats) -> tuple[float, float]:
    """95 % percentile interval of resampled values; NaN when all values are NaN."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def pearson(first: Floats, second: Floats, draws: Draws) -> Floats:
    """Pearson's r of two columns on each draw: shape [1 + resamples]; NaN where one column is constant."""
    coefficients = []
    for weights in draws:
        share = weights / weights.sum()
        a, b = first - share @ first, second - share @ second
        scale = np.sqrt((share @ a**2) * (share @ b**2))
        coefficients.append(float(share @ (a * b) / scale) if scale > 1e-15 else float("nan"))
    return np.array(coefficients)


def ranks(values: NDArray[np.floating]) -> Floats:
    """Ranks from 1; equal values share their mean rank. Pearson's r of ranks is Spearman's coefficient."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    shared: Floats = (last - (count - 1) / 2.0)[group]
    return shared


def _last(within: NDArray[np.bool_]) -> Floats:
    """The share at the last true entry of each row; 0 for a row without one."""
    last = STEPS - np.argmax(within[:, ::-1], axis=1)
    shares: Floats = np.where(within.any(axis=1), last / STEPS, 0.0)
    return shares
