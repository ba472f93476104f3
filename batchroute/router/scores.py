"""What the router says of many texts. It needs no torch: a job without a router has such rows too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.errors import InputError


@dataclass(frozen=True, slots=True)
class Scores:
    """One entry per text, in the order of the texts: arrays of shape [n].

    Attributes:
        scores: float32 in [0, 1]; high = easy. NaN where the model overflowed, as half precision can, or raised.
        tokens: int32, tokens of the whole text, special tokens included.
        truncated: bool, whether the router read only a part.
        embeddings: float32 [n, dimensions], see `Router.embedded`; None if not requested, or not available.
        spread: float32, how far the router's heads disagree, in units of its label; None if it has no heads.
    """

    scores: NDArray[np.float32]
    tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    embeddings: NDArray[np.float32] | None = None
    spread: NDArray[np.float32] | None = None

    def at(self, places: NDArray[np.intp]) -> Scores:
        """The scores of the texts at `places`."""
        embeddings = None if self.embeddings is None else self.embeddings[places]
        spread = None if self.spread is None else self.spread[places]
        return Scores(self.scores[places], self.tokens[places], self.truncated[places], embeddings, spread)

    def checked(self, router: str) -> Scores:
        """These scores, for figures that need a number for every text.

        Raises:
            InputError: a score is NaN.
        """
        if np.isnan(self.scores).any():
            raise InputError(
                f"the router '{router}' gives no number for some prompts: load it in float32, or train it again"
            )
        return self
