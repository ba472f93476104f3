"""Drops: what each threshold costs in quality on rows that both models answered, with an upper bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchroute.errors import InputError
from batchroute.router.calibration.points import Point
from batchroute.statistics import student_quantile

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
"""Of the bounds."""

_STEPS = 100
_PRIOR_PROMPTS = 3
_RESAMPLES = 2_000
_RESAMPLES_AT_A_TIME = 200


def points_of(
    scores: NDArray[np.float32],
    small: Floats,
    large: Floats,
    prompts: Sequence[str],
    seed: int,
    resamples: int = _RESAMPLES,
    confidence: float = CONFIDENCE,
) -> list[Point]:
    """The points at steps of 1 % of the rows; rows of equal scores stay together.

    The drop at a threshold is a ratio of two means over prompts: the losses of the rows at or above the threshold, and
    the large model's quality. Its bound is Student's, by the delta method; its interval is a percentile bootstrap.
    Prompts are resampled, not rows: copies of a prompt add no information.

    Args:
        scores, small, large: shape [rows]; scores and mean qualities.
        seed, resamples: of the bootstrap.
        confidence: of the bounds.

    Raises:
        InputError: the large model's mean quality is 0.
    """
    thresholds = _thresholds(scores)
    _, group = np.unique(np.array(prompts, dtype=object), return_inverse=True)
    groups = int(group.max()) + 1

    baseline: Floats = np.bincount(group, large, groups).astype(np.float64)
    if baseline.sum() == 0.0:
        raise InputError("the large model's mean quality is 0, so a drop in percent means nothing: shift the metric")
    # The first threshold that sends a row to the small model; all later ones do too.
    first = np.searchsorted(-thresholds, -scores)
    cells, shape = group * len(thresholds) + first, (groups, len(thresholds))
    losses = np.bincount(cells, large - small, shape[0] * shape[1]).reshape(shape).cumsum(axis=1)
    first_of_prompt = np.full(groups, len(thresholds))
    np.minimum.at(first_of_prompt, group, first)
    routed = np.bincount(first_of_prompt, minlength=len(thresholds)).cumsum()
    drops: Floats = losses.sum(axis=0) * 100.0 / abs(baseline.sum())
    bounds = drops + student_quantile(confidence, groups - 1) * _standard_errors(losses, baseline, routed)
    low, high = _intervals(losses, baseline, seed, resamples)
    return [
        Point(
            threshold=float(cut),
            cost_advantage=float((scores >= cut).mean()),
            drop=float(drops[i]),
            drop_low=float(low[i]),
            drop_high=float(high[i]),
            bound=float(bounds[i]),
        )
        for i, cut in enumerate(thresholds)
    ]


def _thresholds(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The score at each hundredth of the rows, from the highest. They must not depend on the qualities."""
    ordered = np.sort(scores)[::-1]
    ranks = np.ceil(np.arange(1, _STEPS + 1) * len(scores) / _STEPS).astype(int) - 1
    return np.unique(ordered[ranks])[::-1]


def _standard_errors(losses: Floats, baseline: Floats, routed: NDArray[np.int64]) -> Floats:
    """Standard errors of the drops, in percent, by the delta method.

    If a handful of rows on the small model all lost nothing, that proves little. So the mean square of their losses is
    drawn towards that of all rows, as if `_PRIOR_PROMPTS` more prompts had been seen.

    Args:
        losses: shape [prompts, thresholds].
        baseline: shape [prompts].
        routed: shape [thresholds], prompts on the small model.
    """
    count, total = len(baseline), baseline.sum()
    residuals = losses - baseline[:, None] * (losses.sum(axis=0) / total)
    squares = (losses**2).sum(axis=0)
    expected = (squares + _PRIOR_PROMPTS * squares[-1] / count) * routed / (routed + _PRIOR_PROMPTS)
    spread = (residuals**2).sum(axis=0) + np.maximum(expected - squares, 0.0)
    errors: Floats = np.sqrt(count / (count - 1) * spread) * 100.0 / abs(total)
    return errors


def _intervals(losses: Floats, baseline: Floats, seed: int, resamples: int) -> tuple[Floats, Floats]:
    """95 % percentile intervals of the drops, in percent: shapes [thresholds]."""
    rng = np.random.default_rng(seed)
    count = len(baseline)
    drops = []
    for start in range(0, resamples, _RESAMPLES_AT_A_TIME):
        size = min(_RESAMPLES_AT_A_TIME, resamples - start)
        drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=size).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            drops.append(100.0 * (drawn @ losses) / np.abs(drawn @ baseline)[:, None])
    drawn_drops = np.concatenate(drops)
    # Much faster than its sister, which is for a resample whose large model has a mean quality of 0.
    percentile = np.percentile if np.isfinite(drawn_drops).all() else np.nanpercentile
    low, high = percentile(drawn_drops, [2.5, 97.5], axis=0)
    return low, high
