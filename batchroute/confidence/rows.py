"""Rows that both models answered, with what each answer costs: what ways to decide are compared on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PricedRows:
    """Rows that both models answered, and what each answer costs; arrays of shape [rows].

    Costs may have any unit: only their ratios count.

    Attributes:
        small, large: mean qualities.
        confidence: of the small model's answers, by a model that was not fitted to the row.
        score: the router's; None without a router. Then nothing can be decided before.
        small_cost: of the small model's answer.
        signal_cost: of what is asked of the small model for its signals alone: the extra samples.
        large_cost: of the large model's answer.
        group: number of each row's prompt, from 0; resamples draw prompts.
        router_cost: of scoring one row.
    """

    small: Floats
    large: Floats
    confidence: Scores
    score: Scores | None
    small_cost: Floats
    signal_cost: Floats
    large_cost: Floats
    group: NDArray[np.intp]
    router_cost: float = 0.0

    def __len__(self) -> int:
        return len(self.small)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> PricedRows:
        """These rows; their prompts are numbered anew."""
        picked = {name: getattr(self, name)[rows] for name in _COLUMNS}
        group = np.unique(self.group[rows], return_inverse=True)[1].astype(np.intp)
        return replace(self, **picked, score=None if self.score is None else self.score[rows], group=group)

    def resampled(self, rng: np.random.Generator) -> PricedRows:
        """As many prompts, drawn with replacement, each drawing a prompt of its own."""
        in_order = np.argsort(self.group, kind="stable")
        rows_of = np.split(in_order, np.flatnonzero(np.diff(self.group[in_order])) + 1)
        drawn = [rows_of[number] for number in rng.integers(0, len(rows_of), len(rows_of))]
        group = np.repeat(np.arange(len(drawn)), [len(rows) for rows in drawn])
        return replace(self.take(np.concatenate(drawn)), group=group)

    def smoothed(self, by_score: bool) -> PricedRows:
        """The same rows, with the quality of the small model's answers that their confidence lets expect, or their
        confidence and score: a straight line through the gaps. It knows less of a row than its own quality does, but no
        luck of single rows."""
        gaps, known = self.small - self.large, [np.ones(len(self)), self.confidence.astype(np.float64)]
        if by_score and self.score is not None:
            known.append(self.score.astype(np.float64))
        design = np.stack(known, axis=1)
        slopes = np.linalg.lstsq(design, gaps, rcond=None)[0]
        return replace(self, small=self.large + design @ slopes)

    @property
    def all_large(self) -> float:
        """Mean cost of a row if the large model answers all of them, without a router: the unit of total costs."""
        return float(self.large_cost.mean())

    def cost_of_share(self, share: float) -> float:
        """Total cost, in units of `all_large`, if a share of the rows drawn at random is decided on before, and goes to
        the small model: the cost at which ways are compared at this cost advantage."""
        cost = share * float(self.small_cost.mean()) + (1.0 - share) * self.all_large
        return cost / self.all_large

    def draws(self, resamples: int, seed: int) -> NDArray[np.uint16]:
        """How often each resample holds each row: shape [1 + resamples, rows]; entry 0 holds each row once."""
        prompts = int(self.group.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1.0 / prompts), size=resamples)
        once = np.ones((1, len(self)), np.uint16)
        return np.concatenate([once, drawn.astype(np.uint16)[:, self.group]])


_COLUMNS = ("small", "large", "confidence", "small_cost", "signal_cost", "large_cost")
