"""What heads are worth on rows that they were not fitted to: by folds of the training rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from batchroute.router.evaluation.curves import MeanQualities, curves
from batchroute.router.heads.members import combined
from batchroute.router.training.figures import separations
from batchroute.router.training.heads.fitting import Lesson, fit

Floats = NDArray[np.float64]

FOLDS = 5
_BINS, _BIN_ROWS = 50, 20
# How far beyond the values of training rows a score still rises, and how much of [0, 1] is kept for that.
_BEYOND, _ROOM = 1.0, 0.005
_LOWERED = (0.0, 0.5, 1.0, 2.0)
_RESAMPLES, _SURE = 200, 0.95


def folds_of(prompts: Sequence[str], seed: int) -> NDArray[np.intp]:
    """The fold of each row, from 0: random; rows of one prompt, white space around it apart, are in one fold."""
    different, group = np.unique(np.array([prompt.strip() for prompt in prompts], dtype=object), return_inverse=True)
    fold = np.arange(len(different)) % FOLDS
    shuffled: NDArray[np.intp] = np.random.default_rng(seed).permutation(fold)[group]
    return shuffled


def cross_fitted(lesson: Lesson, folds: NDArray[np.intp], seed: int, on_fold: Callable[[int], None]) -> Floats:
    """Each row's predictions by heads that were fitted to the other folds: float64 [rows, heads].

    Args:
        on_fold: called with the number of folds done.
    """
    predicted: list[tuple[NDArray[np.intp], Floats]] = []
    for fold in range(int(folds.max()) + 1):
        others, own = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        asked = lesson.take(own)
        members = fit(lesson.take(others), seed).predict(asked.features, asked.inputs)
        predicted.append((own, members.double().numpy()))
        on_fold(fold + 1)
    whole = np.empty((len(folds), predicted[0][1].shape[1]))
    for own, values in predicted:
        whole[own] = values
    return whole


def lowering(members: Floats, qualities: MeanQualities, seed: int) -> tuple[float, float]:
    """By how many spreads to lower the mean, so that rows are ordered best; 0 unless the gain is beyond chance.

    Returns:
        The multiple, and what it adds to the separation.
    """
    mean, spread = (part.numpy() for part in combined(torch.from_numpy(members)))
    draws = qualities.draws(_RESAMPLES, seed)
    found = [separations(curves(mean - multiple * spread, qualities, draws), qualities) for multiple in _LOWERED]
    gains = [values - found[0] for values in found]
    best = int(np.argmax([gain[0] for gain in gains]))
    if best == 0 or (gains[best][1:] > 0).mean() < _SURE:
        return 0.0, 0.0
    return _LOWERED[best], float(gains[best][0])


def calibration(values: Floats, targets: Floats, weights: Floats) -> tuple[torch.Tensor, torch.Tensor]:
    """The rising curve that makes cross-fitted values the mean label of rows like them: isotonic over bins of rows.

    It rises everywhere, so that two rows keep their order.

    Returns:
        Its knots and the score at each: float32.
    """
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(values, kind="stable")
    bins = np.array_split(order, max(2, min(_BINS, len(order) // _BIN_ROWS)))
    at = np.array([np.average(values[rows], weights=weights[rows]) for rows in bins])
    level = np.array([np.average(targets[rows], weights=weights[rows]) for rows in bins])
    mass = np.array([weights[rows].sum() for rows in bins])
    risen = IsotonicRegression().fit_transform(at, level, sample_weight=mass)
    # Bins of one level are one knot, at their mean.
    _, block = np.unique(risen, return_inverse=True)
    total = np.bincount(block, mass)
    knots = np.bincount(block, mass * at) / total
    levels = _ROOM + (1 - 2 * _ROOM) * np.clip(np.bincount(block, mass * risen) / total, 0.0, 1.0)
    knots = np.concatenate([[values.min() - _BEYOND], knots, [values.max() + _BEYOND]])
    levels = np.concatenate([[0.0], levels, [1.0]])
    return torch.from_numpy(knots.astype(np.float32)), torch.from_numpy(levels.astype(np.float32))
