"""Gain: how much better the large model's answer to a row is expected to be, before either model answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Floats = NDArray[np.float64]

_SURE = 2.0
_TRIFLE = 1e-6
_SHORT = 16.0
_MOST, _DIGITS = 2_000, 6


class Gain(BaseModel):
    """E[q(L) − q(S)] of a row in units of the metric: linear in its score and in the logarithm of its length.

    The length is needed because a row's cost depends on it: without it, an order by gain per dollar would favour short
    rows for gains that they do not have.

    Attributes:
        by_score: never above 0, since a high score is an easy row.
        by_length: coefficient of the logarithm of (the router's tokens + 16).
        large_mean: mean q(L) of the fitted rows, to which a quality drop is relative.
        large_is_better: the large model is better on average, by more than two standard errors. Then no row is
            expected to lose on the large model: a negative gain of the easiest rows is mostly noise.
        scores, tokens, losses: of the fitted rows, at most 2,000; losses are their q(L) − q(S).
    """

    model_config = ConfigDict(frozen=True)

    base: float
    by_score: float = Field(le=0)
    by_length: float
    large_mean: float
    large_is_better: bool
    scores: list[float] = []
    tokens: list[int] = []
    losses: list[float] = []

    @classmethod
    def fit(cls, scores: NDArray[np.float32], tokens: NDArray[np.int32], losses: Floats, large_mean: float) -> Gain:
        """Least squares. An isotonic fit would follow the luck of a few rows at the ends; a line does not.

        Args:
            scores, tokens, losses: shape [rows]; losses are q(L) − q(S).
        """
        rows = len(losses)
        features = np.stack([np.ones(rows), scores.astype(np.float64), _length(tokens)], axis=1)
        fitted = np.linalg.lstsq(features, losses, rcond=None)[0]
        if fitted[1] > 0:
            # The score says nothing on these rows: fit the length alone.
            fitted = np.insert(np.linalg.lstsq(features[:, [0, 2]], losses, rcond=None)[0], 1, 0.0)
        error = float(np.std(losses, ddof=min(1, rows - 1))) / np.sqrt(rows)
        return cls(
            base=float(fitted[0]),
            by_score=float(fitted[1]),
            by_length=float(fitted[2]),
            large_mean=large_mean,
            large_is_better=bool(losses.mean() > _SURE * error),
            scores=[round(float(score), _DIGITS) for score in scores[:_MOST]],
            tokens=tokens[:_MOST].tolist(),
            losses=[round(float(loss), _DIGITS) for loss in losses[:_MOST]],
        )

    def of(self, scores: NDArray[np.float32], tokens: NDArray[np.int32]) -> Floats:
        """Expected gains: shape as `scores`, NaN where the score is NaN."""
        exact = scores.astype(np.float64)
        gains: Floats = self.base + self.by_score * exact + self.by_length * _length(tokens)
        if self.large_is_better:
            # Slightly above 0, so that spare budget goes to the hardest of these rows.
            gains = np.maximum(gains, _TRIFLE * abs(self.large_mean) * (1.0 - exact))
        return gains


def _length(tokens: NDArray[np.int32]) -> Floats:
    length: Floats = np.log(tokens.astype(np.float64) + _SHORT)
    return length
