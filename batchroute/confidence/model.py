"""The confidence model: what the signals of an answer say of its quality, fitted to rows that both models answered."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute.confidence.signals import Signals

Floats = NDArray[np.float64]
Groups = NDArray[np.intp]

_CLIPPED = (1.0, 99.0)
_FEW_VALUES = 3
_PENALTIES = (1.0, 10.0, 100.0)
_FOLDS = 5
_STEPS, _SMALL_STEP = 50, 1e-8
_HOLD = 1e-3
LEAST_ROWS = 20
"""Fewer are not cross-validated."""

UNFITTED = ("agreement", "reading", "logprob_low")
"""The signals that are a confidence by themselves, the first one first."""


class Column(BaseModel):
    """What one signal adds: weight · z + bend · (z² − square), with z its standardised value.

    Attributes:
        low, high: values are clipped to them, the 1st and 99th percentile of the fitted rows, so that no outlier of
            another night decides.
        mean, scale: of the clipped values.
        square: mean of z² over the fitted rows.
        unknown: added in place of all that where the signal is unknown.
    """

    model_config = ConfigDict(frozen=True)

    low: float
    high: float
    mean: float
    scale: float
    square: float = 0.0
    weight: float = 0.0
    bend: float = 0.0
    unknown: float = 0.0

    def standardised(self, values: Floats) -> Floats:
        """0 where unknown."""
        z = (np.clip(values, self.low, self.high) - self.mean) / self.scale
        standardised: Floats = np.nan_to_num(z, nan=0.0)
        return standardised


class ConfidenceModel(BaseModel):
    """The confidence of a row: a logistic regression of the scaled quality gap on its signals.

    As the router's label `gap` (`batchroute.router.labels`), the target is the gap q(S) − q(L), scaled so that its 1st
    and 99th percentile on the fitted rows are 0 and 1. So the confidence is an estimate of the expected gap, and to
    keep the rows of the highest confidence minimises the mean loss. Squares of the signals are fitted too; the penalty
    is chosen by cross-validation. A few hundred rows carry no more than that.

    Attributes:
        rows: number of fitted rows.
        base: the linear part of a row of average signals.
        gap_low, gap_high: the gaps that a confidence of 0 and of 1 stand for, in units of the metric.
        penalty: of the squared weights.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    base: float
    columns: dict[str, Column]
    gap_low: float
    gap_high: float
    penalty: float

    def apply(self, signals: Signals) -> NDArray[np.float32]:
        """Confidences in [0, 1]: shape [rows]. An unknown signal counts as unknown signals did in the fitted rows."""
        confidence: NDArray[np.float32] = sigmoid(self.linear(signals)).astype(np.float32)
        return confidence

    def gains(self, confidence: NDArray[np.floating]) -> Floats:
        """Expected gains q(L) − q(S) of rows of these confidences, in units of the metric: shape [rows]."""
        return -(self.gap_low + (self.gap_high - self.gap_low) * confidence.astype(np.float64))

    def missing(self, signals: Signals) -> list[str]:
        """Signals that the fitted rows had and that none of these rows has."""
        known = set(signals.known)
        return [name for name in self.columns if name not in known]

    def linear(self, signals: Signals) -> Floats:
        """What the sigmoid makes the confidence of: shape [rows]."""
        columns, linear = signals.columns, np.full(len(signals), self.base)
        for name, column in self.columns.items():
            values = columns[name] if name in columns else np.full(len(signals), np.nan)
            z = column.standardised(_transformed(name, values))
            part = column.weight * z + column.bend * (z**2 - column.square)
            linear += np.where(np.isfinite(values), part, column.unknown)
        return linear

    @classmethod
    def fit(
        cls,
        signals: Signals,
        gaps: Floats,
        weights: Floats | None = None,
        groups: Groups | None = None,
        penalty: float | None = None,
    ) -> Self:
        """Args:
        gaps: shape [rows]; q(S) − q(L).
        weights: shape [rows]; how many rows each stands for: less than 1 for one of several answers to a prompt.
        groups: number of each row's prompt, from 0. Default: all differ.
        penalty: default: chosen by cross-validation.
        """
        counted = np.ones(len(gaps)) if weights is None else weights
        low, high = (float(value) for value in np.percentile(gaps, _CLIPPED))
        if high <= low:
            low, high = float(gaps.min()), float(gaps.max())
        targets = np.clip((gaps - low) / (high - low), 0.0, 1.0) if high > low else np.full(len(gaps), 0.5)
        columns = _columns(signals)
        features, places = _features(signals, columns)
        if penalty is None:
            penalty = _best_penalty(features, targets, counted, groups)
        fitted = _logistic(features, targets, counted, penalty)
        named: dict[str, dict[str, float]] = {name: {} for name in columns}
        for (name, part), weight in zip(places, fitted[1:], strict=True):
            named[name][part] = float(weight)
        return cls(
            rows=len(gaps),
            base=float(fitted[0]),
            columns={name: column.model_copy(update=named[name]) for name, column in columns.items()},
            gap_low=low,
            gap_high=high,
            penalty=penalty,
        )


def fit(signals: Signals, gaps: Floats, weights: Floats | None = None, groups: Groups | None = None) -> ConfidenceModel:
    """See `ConfidenceModel.fit`."""
    return ConfidenceModel.fit(signals, gaps, weights, groups)


def unfitted(signals: Signals) -> NDArray[np.float32]:
    """The confidence without a fit: the first of `UNFITTED` that any row has. Of `logprob_low` it is the rank among the
    given rows, scaled to [0, 1]; equal values have equal ranks. NaN where no such signal is known.
    """
    for values in (signals.agreement, signals.reading):
        if np.isfinite(values).any():
            return values.astype(np.float32)
    low = signals.logprob_low
    known = np.isfinite(low)
    confidence = np.full(len(low), np.nan, np.float32)
    _, place, count = np.unique(low[known], return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count + 1) / 2
    confidence[known] = (middle / max(1, int(known.sum()) - 1))[place]
    return confidence


def _columns(signals: Signals) -> dict[str, Column]:
    """The signals that vary over the rows, or that some rows lack."""
    columns = {}
    for name, values in signals.columns.items():
        seen = np.isfinite(values)
        if not seen.any():
            continue
        known = _transformed(name, values[seen])
        low, high = np.percentile(known, _CLIPPED)
        if high <= low:
            low, high = known.min(), known.max()
        clipped = np.clip(known, low, high)
        scale = float(clipped.std())
        if scale <= 1e-12 * max(1.0, float(np.abs(clipped).max())):
            if seen.all():
                continue
            scale = 1.0
        z = (clipped - clipped.mean()) / scale
        columns[name] = Column(
            low=float(low), high=float(high), mean=float(clipped.mean()), scale=scale, square=float((z**2).mean())
        )
    return columns


def _features(signals: Signals, columns: dict[str, Column]) -> tuple[Floats, list[tuple[str, str]]]:
    """Features of shape [rows, weights], and which column and attribute each weight belongs to."""
    features, places = [], []
    values = signals.columns
    for name, column in columns.items():
        known = np.isfinite(values[name])
        z = column.standardised(_transformed(name, values[name]))
        features.append(np.where(known, z, 0.0))
        places.append((name, "weight"))
        if len(np.unique(z[known])) > _FEW_VALUES:
            features.append(np.where(known, z**2 - column.square, 0.0))
            places.append((name, "bend"))
        if not known.all():
            features.append((~known).astype(np.float64))
            places.append((name, "unknown"))
    return np.stack(features, axis=1) if features else np.empty((len(signals), 0)), places


def fold_of(rows: int, seed: int, folds: int, groups: Groups | None) -> NDArray[np.intp]:
    """The fold of each row: shape [rows]; rows of one group are in one fold."""
    group = np.arange(rows) if groups is None else groups
    fold: NDArray[np.intp] = np.random.default_rng(seed).permutation(int(group.max()) + 1)[group] % folds
    return fold


def _best_penalty(features: Floats, targets: Floats, weights: Floats, groups: Groups | None) -> float:
    """The penalty of the least cross-validated loss; a large one where rows are too few to tell."""
    rows = len(targets)
    if rows < LEAST_ROWS * _FOLDS or not features.shape[1]:
        return _PENALTIES[-1] if rows < LEAST_ROWS else _PENALTIES[1]
    fold = fold_of(rows, 0, _FOLDS, groups)
    losses = []
    for penalty in _PENALTIES:
        loss = 0.0
        for number in range(_FOLDS):
            held = fold == number
            fitted = _logistic(features[~held], targets[~held], weights[~held], penalty)
            linear = fitted[0] + features[held] @ fitted[1:]
            loss += float(weights[held] @ (np.logaddexp(0.0, linear) - targets[held] * linear))
        losses.append(loss)
    return _PENALTIES[int(np.argmin(losses))]


def _logistic(features: Floats, targets: Floats, weights: Floats, penalty: float) -> Floats:
    """Base and weights that minimise cross-entropy with soft targets plus a penalty, by Newton's method.

    Args:
        features: shape [rows, weights].
        targets: shape [rows], in [0, 1].
    """
    design = np.concatenate([np.ones((len(targets), 1)), features], axis=1)
    # A trifle holds the base where all targets are 0, or all are 1.
    ridge = np.full(design.shape[1], penalty)
    ridge[0] = _HOLD
    fitted = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chance = sigmoid(design @ fitted)
        slope = design.T @ (weights * (chance - targets)) + ridge * fitted
        curvature = (design * (weights * chance * (1.0 - chance))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, slope)
        fitted -= step
        if np.abs(step).max() < _SMALL_STEP:
            break
    return fitted


def _transformed(name: str, values: Floats) -> Floats:
    # Lengths differ by factors.
    transformed: Floats = np.log1p(np.maximum(values, 0.0)) if name == "tokens" else values
    return transformed


def sigmoid(values: Floats) -> Floats:
    """The logistic function, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * values))
