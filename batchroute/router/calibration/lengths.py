"""Lengths: how many tokens a model reads and writes for a prompt, expected from the router's count of that prompt.

Measured by `label` on some hundred prompts, kept by `calibrate`, used to price a night before it starts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Floats = NDArray[np.float64]

_FEWEST = 2


class Line(BaseModel):
    """Expected tokens as a straight line over the router's tokens.

    Attributes:
        error: standard error of the mean over the prompts that the line was fitted to, in tokens.
        spread: standard deviation of one prompt about the line, in tokens.
    """

    model_config = ConfigDict(frozen=True)

    base: float
    per_token: float = Field(ge=0)
    error: float = Field(default=0.0, ge=0)
    spread: float = Field(default=0.0, ge=0)

    def at(self, tokens: NDArray[np.int32]) -> Floats:
        """Shape as `tokens`; never below 0."""
        found: Floats = np.maximum(self.base + self.per_token * tokens.astype(np.float64), 0.0)
        return found

    @classmethod
    def fit(cls, router_tokens: NDArray[np.int32], tokens: Floats) -> Line:
        """By least squares, so that the residuals add up to 0. A line that would fall is level instead: no model writes
        less because it was asked more, and over longer prompts than those it would end below 0.

        Args:
            router_tokens, tokens: shape [prompts].
        """
        x, y = router_tokens.astype(np.float64), tokens
        centred = x - x.mean()
        scale = float(centred @ centred)
        slope = max(0.0, float(centred @ (y - y.mean())) / scale) if scale > 0 else 0.0
        base = float(y.mean() - slope * x.mean())
        spread = float(np.std(y - base - slope * x, ddof=min(1, len(y) - 1)))
        return cls(base=base, per_token=slope, error=spread / np.sqrt(len(y)), spread=spread)


class Lengths(BaseModel):
    """Of one model.

    Attributes:
        prompts: how many they were measured on; 0: nothing was measured, and they are an upper bound.
        seconds_per_token: busy seconds for each token read or written; None where it was not measured.
    """

    model_config = ConfigDict(frozen=True)

    prompts: int
    input: Line
    output: Line
    seconds_per_token: float | None = None

    @classmethod
    def fit(
        cls,
        router_tokens: NDArray[np.int32],
        read: Floats,
        written: Floats,
        seconds_per_token: float | None = None,
    ) -> Lengths | None:
        """None when fewer than two prompts have figures.

        Args:
            router_tokens: shape [prompts].
            read, written: shape [prompts]; tokens of the model for a prompt and of its mean response; NaN: unknown.
        """
        known = np.isfinite(read) & np.isfinite(written)
        if int(known.sum()) < _FEWEST:
            return None
        return cls(
            prompts=int(known.sum()),
            input=Line.fit(router_tokens[known], read[known]),
            output=Line.fit(router_tokens[known], written[known]),
            seconds_per_token=seconds_per_token,
        )

    @classmethod
    def at_most(cls, max_new_tokens: int, around: str = "") -> Lengths:
        """What a model takes at the most, where nothing was measured: as many tokens as the router counts, those of the
        text around each prompt by four bytes a token, and the longest response."""
        base = len(around.encode()) / 4
        return cls(
            prompts=0, input=Line(base=base, per_token=1.0), output=Line(base=float(max_new_tokens), per_token=0.0)
        )
