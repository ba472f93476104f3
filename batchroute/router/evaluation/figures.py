"""What routing by a score costs in quality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.errors import InputError

COST_ADVANTAGES = (0.1, 0.2, 0.4)
"""The shares of rows on the small model at which the paper reports (Tables 1 and 2)."""

_NO_DROP = "the large model's mean quality is 0, so a drop in percent means nothing: shift the metric"
_AREA = tuple(np.arange(1, 10) / 10)


@dataclass(frozen=True, slots=True)
class Figures:
    """How well scores route some rows. Drops are in percent, at `cost_advantage` shares of the rows on the small model.

    Attributes:
        bce: mean binary cross-entropy of the scores against the labels, in nats.
        separation: see `separation`.
        mean_drop: see `mean_drop`.
    """

    bce: float
    separation: float
    mean_drop: float
    cost_advantage: tuple[float, ...]
    drop: tuple[float, ...]
    random_drop: tuple[float, ...]


def figures_of(
    scores: NDArray[np.float32],
    labels: NDArray[np.float32],
    small_mean: NDArray[np.float64],
    large_mean: NDArray[np.float64],
) -> Figures:
    """Figures of rows with these scores, labels and mean qualities; all of shape [rows]. Raises as `quality_drop`."""
    inside = scores.astype(np.float64).clip(1e-7, 1 - 1e-7)
    bce = -(labels * np.log(inside) + (1 - labels) * np.log(1 - inside)).mean()
    return Figures(
        bce=float(bce),
        separation=separation(scores, small_mean, large_mean),
        mean_drop=mean_drop(scores, small_mean, large_mean),
        cost_advantage=COST_ADVANTAGES,
        drop=tuple(quality_drop(scores, small_mean, large_mean, share) for share in COST_ADVANTAGES),
        random_drop=tuple(random_drop(small_mean, large_mean, share) for share in COST_ADVANTAGES),
    )


def quality_drop(
    scores: NDArray[np.floating], small_mean: NDArray[np.float64], large_mean: NDArray[np.float64], share: float
) -> float:
    """(mean q(L) − mean q(routed)) / |mean q(L)| in percent when the `share` highest scores go to the small model.

    Rows of equal scores lose their average, so that the figure does not depend on the order of the rows: it is what a
    random choice among them would give on average.

    Args:
        scores, small_mean, large_mean: shape [rows]; the score and the mean quality of both models' responses.
        share: the cost advantage, in [0, 1]; to the nearest row.

    Raises:
        InputError: the large model's mean quality is 0, so that no share of it can be told.
    """
    large = float(large_mean.mean())
    if large == 0.0:
        raise InputError(_NO_DROP)
    losses = _without_ties(scores, large_mean - small_mean)
    chosen = np.argsort(-scores, kind="stable")[: round(share * len(scores))]
    return float(100.0 * losses[chosen].sum() / len(scores) / abs(large))


def random_drop(small_mean: NDArray[np.float64], large_mean: NDArray[np.float64], share: float) -> float:
    """The expected `quality_drop` of routing at random."""
    return quality_drop(np.zeros(len(small_mean)), small_mean, large_mean, share)


def mean_drop(scores: NDArray[np.floating], small_mean: NDArray[np.float64], large_mean: NDArray[np.float64]) -> float:
    """The mean `quality_drop` over cost advantages of 10, 20, … 90 %: one figure for a router, lower is better."""
    return float(np.mean([quality_drop(scores, small_mean, large_mean, share) for share in _AREA]))


def largest_share(
    scores: NDArray[np.floating], small_mean: NDArray[np.float64], large_mean: NDArray[np.float64], limit: float
) -> float:
    """The largest cost advantage whose `quality_drop` is at most `limit` percent; 0 when none is. Raises as that."""
    large = float(large_mean.mean())
    if large == 0.0:
        raise InputError(_NO_DROP)
    losses = _without_ties(scores, large_mean - small_mean)[np.argsort(-scores, kind="stable")]
    within = np.flatnonzero(100.0 * np.cumsum(losses) / len(scores) / abs(large) <= limit)
    return float((within[-1] + 1) / len(scores)) if len(within) else 0.0


def separation(scores: NDArray[np.floating], small_mean: NDArray[np.float64], large_mean: NDArray[np.float64]) -> float:
    """How far scores pull the quality gaps apart; higher is better, 0 is chance.

    The mean gap of the rows sent to the small model minus that of the others ("Hybrid LLM", section 4.3), averaged over
    cost advantages of 10, 20, … 90 % and in standard deviations of the gap, so that metrics of any unit compare.
    """
    gaps = _without_ties(scores, small_mean - large_mean)
    spread = float((small_mean - large_mean).std())
    if spread == 0.0:
        return 0.0
    ordered = gaps[np.argsort(-scores, kind="stable")]
    cuts = [min(max(1, round(share * len(ordered))), len(ordered) - 1) for share in _AREA]
    return float(np.mean([ordered[:cut].mean() - ordered[cut:].mean() for cut in cuts]) / spread)


def _without_ties(scores: NDArray[np.floating], losses: NDArray[np.float64]) -> NDArray[np.float64]:
    _, group, count = np.unique(scores, return_inverse=True, return_counts=True)
    averages: NDArray[np.float64] = np.bincount(group, weights=losses) / count
    return averages[group]
