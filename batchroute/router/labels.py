"""Training labels: how easy each prompt was for the small model, from the sampled qualities of both models.

`det`, `prob` and `trans` are those of "Hybrid LLM" (ICLR 2024, arXiv 2404.14618), section 3; a router trained on them
is the paper's r_det, r_prob or r_trans. `gap` is our own: under binary cross-entropy the score then estimates the
expected quality gap, and sending the rows of the highest expected gap to the small model costs the least quality at a
given cost advantage. The paper's labels estimate only how often the small model wins.

Throughout, `small` and `large` hold one float64 array per prompt: the qualities of its sampled responses, at least one
per model; the models may have different numbers of them. H is the quality gap q(S) − q(L). Labels are float32 of shape
[prompts], in [0, 1], high = easy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from batchroute.errors import InputError

LabelKind = Literal["det", "prob", "trans", "gap"]
Qualities = Sequence[NDArray[np.float64]]
LabelArray = NDArray[np.float32]

_GRID_SIZE = 200
_INTERVAL_GRID, _RESAMPLES = 50, 200
# An interval longer than half of the range of losses says that the peak could be anywhere. The largest 5 % of the
# losses do not count for the range: a single one could make any interval look short.
_UNSTABLE, _USUAL_LOSSES = 0.5, 0.95
_GAP_PERCENTILES = (1.0, 99.0)


def det(small: Qualities, large: Qualities) -> LabelArray:
    """y_det = 1[q(S) ≥ q(L)], from the first sample of each model."""
    return np.array([s[0] >= q[0] for s, q in zip(small, large, strict=True)], dtype=np.float32)


def prob(small: Qualities, large: Qualities) -> LabelArray:
    """y_prob = Pr[H ≥ 0], over all pairs of a small and a large sample."""
    return trans(small, large, 0.0)


def trans(small: Qualities, large: Qualities, t: float) -> LabelArray:
    """y_trans(t) = Pr[H ≥ −t], over all pairs of a small and a large sample; ties count."""
    return _Pairs.of(small, large).share_at_least(-t).astype(np.float32)


def mean_gap(small: Qualities, large: Qualities) -> NDArray[np.float64]:
    """Mean H of each prompt, float64 of shape [prompts]."""
    return np.array([s.mean() - q.mean() for s, q in zip(small, large, strict=True)])


def gap(small: Qualities, large: Qualities, low: float, high: float) -> LabelArray:
    """y_gap = (mean H − low) / (high − low), clipped to [0, 1], for `low` < `high`."""
    return np.clip((mean_gap(small, large) - low) / (high - low), 0.0, 1.0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class BestT:
    """t*, and the curve whose peak it is.

    Attributes:
        grid, spread: `spread[i]` is the mean absolute difference of the labels at `grid[i]`.
        low, high: 95 % interval of t*, by a bootstrap over prompts on a grid of about 50 points.
    """

    t: float
    grid: NDArray[np.float64]
    spread: NDArray[np.float64]
    low: float
    high: float

    def warnings(self) -> list[str]:
        """Reasons not to trust t*, one sentence each."""
        warnings = []
        if self.t == 0.0:
            warnings.append("t* is 0: no relaxation spreads the labels better, so 'trans' is the same as 'prob' here")
        if self.high - self.low > _UNSTABLE * np.quantile(self.grid, _USUAL_LOSSES):
            warnings.append(
                f"t* is unstable: {self.t:.3g}, but anything from {self.low:.3g} to {self.high:.3g} on other prompts "
                "like these; label more prompts, or train 'gap'"
            )
        return warnings

    def curve(self, points: int = 50) -> dict[str, list[float]]:
        """The curve at about `points` points including its peak, for `router.json`."""
        rows = _some(len(self.grid), points, int(self.spread.argmax()))
        return {"t": self.grid[rows].tolist(), "spread": self.spread[rows].tolist()}


def best_t(small: Qualities, large: Qualities, grid_size: int = _GRID_SIZE) -> BestT:
    """t* = argmax over t ≥ 0 of the mean absolute difference of y_trans(t) over all pairs of prompts.

    "Hybrid LLM", section 3.3. The labels change only where −t is an observed gap, so the grid is 0 and the distinct
    losses −H > 0, or `grid_size` quantiles of them if there are more. Of equal peaks the smallest t is taken.
    """
    pairs = _Pairs.of(small, large)
    losses = np.unique(-pairs.gaps[pairs.gaps < 0])
    if len(losses) > grid_size:
        losses = np.unique(np.quantile(losses, np.linspace(0, 1, grid_size), method="nearest"))
    grid = np.concatenate([[0.0], losses])
    spread = np.array([mean_absolute_difference(pairs.share_at_least(-t)) for t in grid])
    best = int(spread.argmax())
    low, high = _interval(pairs, grid, best)
    return BestT(float(grid[best]), grid, spread, low, high)


def _interval(pairs: _Pairs, grid: NDArray[np.float64], best: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of t*. Resampled prompts keep their labels, so each t is labelled and sorted once.

    Args:
        best: index of t* in the grid; the interval contains it.
    """
    some = grid[_some(len(grid), _INTERVAL_GRID, best)]
    n = len(pairs.counts)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1.0 / n), size=_RESAMPLES).astype(np.float64)
    spreads = []
    for t in some:
        labels = pairs.share_at_least(-t)
        order = np.argsort(labels)
        weights = drawn[:, order]
        up_to = np.cumsum(weights, axis=1)
        spreads.append((weights * (2.0 * up_to - weights - n)) @ labels[order])
    peaks = some[np.argmax(spreads, axis=0)]
    low, high = np.quantile(peaks, [0.025, 0.975])
    return min(float(low), float(grid[best])), max(float(high), float(grid[best]))


def _some(count: int, wanted: int, always: int) -> NDArray[np.intp]:
    """Up to `wanted` evenly spread numbers below `count`, and `always`."""
    return np.union1d(np.linspace(0, count - 1, wanted).round().astype(np.intp), [always])


def mean_absolute_difference(values: NDArray[np.float64]) -> float:
    """(1/N²) Σᵢ Σⱼ |vᵢ − vⱼ| in O(N log N).

    Counted from 0, the i-th smallest value is the larger of i pairs and the smaller of N − 1 − i pairs.
    """
    n = len(values)
    weights = 2.0 * np.arange(n) - (n - 1)
    return float(2.0 * (np.sort(values) @ weights) / n**2)


@dataclass(frozen=True, slots=True)
class Labels:
    """A kind of label with its constants from training rows.

    Attributes:
        t_star: of `trans`.
        best: the search for t*; None after `from_dict`.
        gap_low, gap_high: of `gap`: the mean gaps that become 0 and 1, percentiles 1 and 99.
    """

    kind: LabelKind
    t_star: float | None = None
    best: BestT | None = field(default=None, compare=False)
    gap_low: float | None = None
    gap_high: float | None = None

    @classmethod
    def fit(cls, kind: LabelKind, small: Qualities, large: Qualities) -> Self:
        """Fit the constants; pass training rows only.

        Raises:
            InputError: every row gets the same label, so that there is nothing to learn.
        """
        fitted = cls(kind)
        if kind == "trans":
            best = best_t(small, large)
            fitted = cls(kind, t_star=best.t, best=best)
        elif kind == "gap":
            gaps = mean_gap(small, large)
            low, high = np.percentile(gaps, _GAP_PERCENTILES)
            if low == high:
                # Almost all rows have the same gap: scale by the few others.
                low, high = gaps.min(), gaps.max()
            if low == high:
                raise InputError(_constant(kind, len(gaps)))
            fitted = cls(kind, gap_low=float(low), gap_high=float(high))
        labels = fitted.apply(small, large)
        if (labels == labels[0]).all():
            raise InputError(_constant(kind, len(labels)))
        return fitted

    def apply(self, small: Qualities, large: Qualities) -> LabelArray:
        """Labels of any rows."""
        if self.kind == "det":
            return det(small, large)
        if self.kind == "prob":
            return prob(small, large)
        if self.kind == "trans":
            assert self.t_star is not None
            return trans(small, large, self.t_star)
        assert self.gap_low is not None
        assert self.gap_high is not None
        return gap(small, large, self.gap_low, self.gap_high)

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "label": self.kind,
            "t_star": self.t_star,
            "gap_low": self.gap_low,
            "gap_high": self.gap_high,
        }
        if self.best is not None:
            values |= {"t_star_interval": [self.best.low, self.best.high], "t_star_curve": self.best.curve()}
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; other keys are ignored."""
        return cls(values["label"], t_star=values["t_star"], gap_low=values["gap_low"], gap_high=values["gap_high"])


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The gaps of all pairs of samples, prompt by prompt: 8 bytes for each of the Σ k_small · k_large pairs."""

    gaps: NDArray[np.float64]
    starts: NDArray[np.intp]
    counts: NDArray[np.intp]

    @classmethod
    def of(cls, small: Qualities, large: Qualities) -> Self:
        each = [np.subtract.outer(s, q).ravel() for s, q in zip(small, large, strict=True)]
        counts = np.array([len(gaps) for gaps in each], dtype=np.intp)
        return cls(np.concatenate(each), np.cumsum(counts) - counts, counts)

    def share_at_least(self, least: float) -> NDArray[np.float64]:
        """Pr[H ≥ least] of each prompt."""
        return np.add.reduceat((self.gaps >= least).astype(np.int64), self.starts) / self.counts


def _constant(kind: LabelKind, rows: int) -> str:
    return (
        f"there is nothing to learn: all {rows:,} training rows get the same '{kind}' label, so take another label, "
        "another quality metric or more prompts"
    )
