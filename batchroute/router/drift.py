"""Drift: whether tonight's rows look like those that the router was calibrated on, in figures and in plain words."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

OnDrift = Literal["warn", "large", "stop"]


class Feature(BaseModel):
    """One thing that is compared.

    Attributes:
        psi: population stability index; its expectation by chance alone is not taken off.
        ks: Kolmogorov and Smirnov's distance of the two distributions; None for a feature without an order.
        p_value: of the more telling of the two, not corrected for there being several features.
        words: one sentence for an operator.
    """

    model_config = ConfigDict(frozen=True)

    name: Literal["score", "length", "language", "content"]
    psi: float
    ks: float | None
    p_value: float
    drifted: bool
    words: str


class Drift(BaseModel):
    """Tonight's rows against the calibration's."""

    model_config = ConfigDict(frozen=True)

    rows: int
    reference_rows: int
    features: list[Feature]

    @property
    def drifted(self) -> bool:
        return any(feature.drifted for feature in self.features)

    def sentence(self) -> str:
        found = [feature.words for feature in self.features if feature.drifted]
        if not found:
            return f"No drift: {self.rows:,} rows look like the {self.reference_rows:,} of the calibration."
        return f"Drift: {' '.join(found)}"
