"""The figures of one epoch on validation rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.router.evaluation.curves import COST_ADVANTAGES, Curves, MeanQualities, curves, random_curves

_SHARES = tuple(np.arange(1, 10) / 10)


@dataclass(frozen=True, slots=True)
class Figures:
    """How well scores route some rows; drops in percent, at each cost advantage of `cost_advantage`.

    Attributes:
        bce: mean binary cross-entropy of the scores against the labels, in nats.
        separation: see `separation`.
        mean_drop: mean quality drop over cost advantages of 10, 20, … 90 %; lower is better.
        random_drop: expected drop of routing at random.
    """

    bce: float
    separation: float
    mean_drop: float
    cost_advantage: tuple[float, ...]
    drop: tuple[float, ...]
    random_drop: tuple[float, ...]


def figures_of(scores: NDArray[np.float32], labels: NDArray[np.float32], qualities: MeanQualities) -> Figures:
    """Args:
    scores, labels: shape [rows].
    qualities: of the same rows; the large model's mean quality must not be 0.
    """
    inside = scores.astype(np.float64).clip(1e-7, 1 - 1e-7)
    bce = -(labels * np.log(inside) + (1 - labels) * np.log(1 - inside)).mean()
    routed, random = curves(scores, qualities), random_curves(qualities)
    return Figures(
        bce=float(bce),
        separation=separation(routed, qualities),
        mean_drop=float(np.mean([routed.drop_at(share)[0] for share in _SHARES])),
        cost_advantage=COST_ADVANTAGES,
        drop=tuple(float(routed.drop_at(share)[0]) for share in COST_ADVANTAGES),
        random_drop=tuple(float(random.drop_at(share)[0]) for share in COST_ADVANTAGES),
    )


def separation(routed: Curves, qualities: MeanQualities) -> float:
    """How far scores pull the quality gaps apart; higher is better, 0 is chance.

    The quality-gap difference ("Hybrid LLM", section 4.3), averaged over cost advantages of 10, 20, … 90 % and divided
    by the standard deviation of the gap, so that metrics of different units compare.
    """
    return float(separations(routed, qualities)[0])


def separations(routed: Curves, qualities: MeanQualities) -> NDArray[np.float64]:
    """As `separation`, on the rows as they are (entry 0) and on each resample: shape [1 + resamples]."""
    spread = float(qualities.gap.std())
    if spread == 0.0:
        return np.zeros(len(routed.loss))
    differences: NDArray[np.float64] = np.mean([routed.gap_difference(share) for share in _SHARES], axis=0)
    return differences / spread
