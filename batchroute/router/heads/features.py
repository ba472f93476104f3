"""What heads read of a prompt: the encoder's pooled states, its n-grams projected to some dimensions, cheap features.

Each part is standardised and divided by the square root of its width, so that distances within a part are of the same
size whatever its width; `SHARES` says how much each part counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from batchroute.router.heads.cheap import cheap
from batchroute.router.heads.ngrams import BUCKETS, Codes, Grams, grams

Floats = NDArray[np.float32]

SHARES = {"mean": 0.5, "first": 0.1, "text": 0.25, "cheap": 0.15}
"""Of each part in a squared distance between two prompts."""

_FURTHEST = 5.0
"""Standard deviations at which a feature is cut: a prompt unlike all others must not rule a head."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Standardises the parts.

    Attributes:
        mean, factor: float32 [width].
    """

    mean: torch.Tensor
    factor: torch.Tensor

    @classmethod
    def of(cls, parts: dict[str, Floats]) -> Scale:
        """Args:
        parts: by the names of `SHARES`, of training rows.
        """
        means, factors = [], []
        for name, part in parts.items():
            deviation = part.std(axis=0, dtype=np.float64)
            # A feature that never varied in training says nothing, however much it varies later.
            varied = deviation > 1e-6
            factor = np.zeros(part.shape[1])
            factor[varied] = (SHARES[name] / part.shape[1]) ** 0.5 / deviation[varied]
            means.append(part.mean(axis=0, dtype=np.float64))
            factors.append(factor)
        both = (torch.from_numpy(np.concatenate(values).astype(np.float32)) for values in (means, factors))
        return cls(*both)

    def apply(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features: float32 [rows, width]; the parts lie on the device of the scale."""
        widths = [part.shape[1] for part in parts]
        furthest = torch.cat(
            [
                torch.full((width,), _FURTHEST * (share / width) ** 0.5, device=self.mean.device)
                for width, share in zip(widths, SHARES.values(), strict=True)
            ]
        )
        scaled = (torch.cat(list(parts), dim=1) - self.mean) * self.factor
        return torch.minimum(torch.maximum(scaled, -furthest), furthest)


class Projection:
    """TF-IDF of n-grams, projected.

    Attributes:
        numbers: int32 [grams]: the grams that training rows hold often enough.
        idf: float32 [grams].
        directions: float32 [grams, dimensions].
    """

    def __init__(self, numbers: NDArray[np.int32], idf: Floats, directions: torch.Tensor) -> None:
        self.numbers, self.idf, self.directions = numbers, idf, directions
        self._column = np.full(BUCKETS, -1, np.int64)
        self._column[numbers] = np.arange(len(numbers))

    def weights(self, found: Grams, texts: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """TF-IDF of the known grams, each text of length 1: text and column of each entry, and its weight."""
        columns = self._column[found.number]
        known = columns >= 0
        text, columns = found.text[known], columns[known]
        weights = (1.0 + np.log(found.count[known])) * self.idf[columns]
        lengths = np.sqrt(np.bincount(text, weights**2, texts))
        return text, columns, (weights / np.maximum(lengths, 1e-9)[text]).astype(np.float32)

    def apply(self, found: Grams, texts: int) -> Floats:
        """float32 [texts, dimensions]; a text without a known gram is 0."""
        text, columns, weights = self.weights(found, texts)
        projected = torch.nn.functional.embedding_bag(
            torch.from_numpy(columns),
            self.directions,
            torch.from_numpy(np.searchsorted(text, np.arange(texts))),
            mode="sum",
            per_sample_weights=torch.from_numpy(weights),
        )
        return np.asarray(projected)


@dataclass(frozen=True, slots=True)
class TextParts:
    """What texts say without the encoder: float32, shapes [texts, dimensions] and [texts, cheap features]."""

    text: Floats
    cheap: Floats

    @classmethod
    def of(cls, texts: Sequence[str], projection: Projection) -> TextParts:
        codes = Codes.of(texts)
        return cls(projection.apply(grams(codes), len(texts)), cheap(texts, codes))
