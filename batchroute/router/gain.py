"""Gain: how much better the large model's answer is expected to be, by the router's score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Floats = NDArray[np.float64]

_MOST_BINS, _ROWS_A_BIN = 50, 10


class Gain(BaseModel):
    """E[q(L) − q(S) | score], falling with the score; straight between the points, level beyond them.

    Attributes:
        scores: rising.
        gains: one a score, in units of the metric.
        large_mean: mean q(L) of the rows that it was fitted to: what a quality drop is relative to.
    """

    model_config = ConfigDict(frozen=True)

    scores: list[float]
    gains: list[float]
    large_mean: float

    @classmethod
    def fit(cls, scores: NDArray[np.float32], losses: Floats, large_mean: float) -> Gain:
        """Isotonic regression (pool adjacent violators) over bins of equally many rows.

        Of bins and not of rows: the outermost blocks of the latter are often one lucky row, and money would go there.

        Args:
            scores, losses: shape [rows]; losses are q(L) − q(S).
        """
        order = np.argsort(scores, kind="stable")
        bins = np.array_split(order, max(1, min(_MOST_BINS, len(order) // _ROWS_A_BIN)))
        centres = np.array([scores[rows].astype(np.float64).mean() for rows in bins])
        means = np.array([losses[rows].mean() for rows in bins])
        falling = _falling(means, np.array([len(rows) for rows in bins], dtype=np.float64))
        return cls(scores=centres.tolist(), gains=falling.tolist(), large_mean=large_mean)

    def of(self, scores: NDArray[np.float32]) -> Floats:
        """Shape as `scores`; NaN for NaN."""
        found: Floats = np.interp(scores.astype(np.float64), self.scores, self.gains)
        return np.where(np.isnan(scores), np.nan, found)


def _falling(means: Floats, weights: Floats) -> Floats:
    """The falling sequence nearest to `means` in weighted squares."""
    blocks: list[tuple[float, float, int]] = []
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        block = (mean, weight, 1)
        while blocks and blocks[-1][0] < block[0]:
            (a, v, n), (b, w, m) = blocks.pop(), block
            block = ((a * v + b * w) / (v + w), v + w, n + m)
        blocks.append(block)
    return np.array([mean for mean, _, count in blocks for _ in range(count)])
