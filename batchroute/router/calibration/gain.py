"""Gain: how much better the large model's answer is expected to be, by what is known of a row before it is asked."""

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
    """E[q(L) − q(S)] of a row, straight in its score and in the logarithm of its length, in units of the metric.

    The length has a say of its own: what a row costs goes by it, so that an order by gain per dollar would otherwise
    favour short rows for gains that they do not have.

    Attributes:
        by_score: never above 0: a high score is an easy row.
        by_length: of the logarithm of the router's tokens and sixteen.
        large_mean: mean q(L) of the rows that it was fitted to: what a quality drop is relative to.
        large_is_better: on average, beyond doubt. Then no row is taken to lose on the large model: what says so of the
            easiest ones is mostly noise.
        scores, tokens, losses: of the rows that it was fitted to, 2,000 at the most; losses are their q(L) − q(S).
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
        """By least squares; a line is steady where an isotonic fit would follow the luck of a few rows at the ends.

        Args:
            scores, tokens, losses: shape [rows]; losses are q(L) − q(S).
        """
        rows = len(losses)
        features = np.stack([np.ones(rows), scores.astype(np.float64), _length(tokens)], axis=1)
        fitted = np.linalg.lstsq(features, losses, rcond=None)[0]
        if fitted[1] > 0:
            # The router tells nothing here: what is left is the length.
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
        """Shape as `scores`; NaN for NaN."""
        exact = scores.astype(np.float64)
        found: Floats = self.base + self.by_score * exact + self.by_length * _length(tokens)
        if self.large_is_better:
            # Not 0, so that money that is left goes to the hardest of them.
            found = np.maximum(found, _TRIFLE * abs(self.large_mean) * (1.0 - exact))
        return found


def _length(tokens: NDArray[np.int32]) -> Floats:
    length: Floats = np.log(tokens.astype(np.float64) + _SHORT)
    return length
