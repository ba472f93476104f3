"""Lengths: tokens that a model is expected to read and write for a prompt, from the router's token count.

`label` measures them on some hundred prompts, `calibrate` stores them, and a run is priced by them before it starts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Floats = NDArray[np.float64]

_FEWEST = 2


class Line(BaseModel):
    """Expected tokens, linear in the router's tokens.

    Attributes:
        error: standard error of the mean over the fitted prompts, in tokens.
        spread: standard deviation of one prompt about the line, in tokens.
    """

    model_config = ConfigDict(frozen=True)

    base: float
    per_token: float = Field(ge=0)
    error: float = Field(default=0.0, ge=0)
    spread: float = Field(default=0.0, ge=0)

    def at(self, tokens: NDArray[np.int32]) -> Floats:
        """Expected tokens: shape as `tokens`, never below 0."""
        expected: Floats = np.maximum(self.base + self.per_token * tokens.astype(np.float64), 0.0)
        return expected

    @classmethod
    def fit(cls, router_tokens: NDArray[np.int32], tokens: Floats) -> Line:
        """Least squares, so that the residuals add up to 0. The slope is at least 0: a falling line would predict fewer
        than 0 tokens for longer prompts.

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
    """The lengths of one model.

    Attributes:
        prompts: number of measured prompts; 0 if nothing was measured, so that the lengths are an upper bound.
        seconds_per_token: busy seconds for each token read or written; None if not measured.
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
        """None if fewer than two prompts have figures.

        Args:
            router_tokens: shape [prompts].
            read, written: shape [prompts]; the model's tokens for a prompt and for its mean response; NaN if unknown.
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
        """An upper bound where nothing was measured.

        Input: the router's count, plus the template and system text `around` each prompt at four bytes per token.
        Output: the longest response.
        """
        base = len(around.encode()) / 4
        return cls(
            prompts=0, input=Line(base=base, per_token=1.0), output=Line(base=float(max_new_tokens), per_token=0.0)
        )
