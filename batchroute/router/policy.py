"""The policy: which rows go to the small model, decided on all scores of the run."""

from __future__ import annotations

from decimal import ROUND_HALF_UP
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batchroute.router.calibration import Calibration, Point, Rule
from batchroute.share import Share

Scores = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]

WAYS = ("threshold", "small_share", "max_quality_drop")
"""The keys that decide; a policy has one of them."""

_ABOVE_ALL = 2.0
_LAST_POSITION = int(np.iinfo(np.int64).max)


class Cutoff(BaseModel):
    """A decision: a row goes to the small model when its score is above `score`, or equal to it and the row is not
    after `last_tie`."""

    model_config = ConfigDict(frozen=True)

    score: float
    last_tie: int = _LAST_POSITION

    def small(self, scores: Scores, positions: Positions) -> npt.NDArray[np.bool_]:
        """Which rows go to the small model; a row without a score (NaN) never does. Shapes: all [rows]."""
        # In the scores' own precision: a score that is printed as 0.7 reaches a threshold of 0.7.
        cut = np.float32(self.score)
        small: npt.NDArray[np.bool_] = (scores > cut) | ((scores == cut) & (positions <= self.last_tie))
        return small


class Policy(BaseModel):
    """Exactly one way to trade cost against quality."""

    model_config = ConfigDict(extra="forbid")

    threshold: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="small when score ≥ threshold")
    small_share: Share | None = Field(default=None, description="this share of the rows, the easiest, to small")
    max_quality_drop: Share | None = Field(default=None, description="as many to small as this drop in quality allows")
    rule: Rule | None = Field(default=None, description="of max_quality_drop: bounded, unless set, or empirical")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in WAYS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(WAYS)}")
        if self.rule is not None and self.max_quality_drop is None:
            raise ValueError("rule belongs to max_quality_drop: leave it out")
        return self

    def point(self, calibration: Calibration) -> Point | None:
        """The calibrated point that `max_quality_drop` asks for; None: no threshold keeps the drop within it."""
        assert self.max_quality_drop is not None
        return calibration.within(float(100 * self.max_quality_drop), self.rule or "bounded")

    def decide(self, scores: Scores, routable: int, calibration: Calibration | None = None) -> Cutoff:
        """The cut-off over all scores of the run.

        A share is met exactly to the row, halves rounded up, of all rows that can be routed; among equal scores the
        first rows go to small. Costs one copy of `scores`: 4 bytes a row.

        Args:
            scores: shape [rows], by position; NaN where a row has no score.
            routable: how many rows will be sent to a model: those with a usable prompt.
            calibration: the router's; needed for `max_quality_drop`.
        """
        if self.max_quality_drop is not None:
            assert calibration is not None
            point = self.point(calibration)
            return Cutoff(score=_ABOVE_ALL if point is None else point.threshold)
        if self.threshold is not None:
            return Cutoff(score=self.threshold)
        assert self.small_share is not None
        wanted = int((self.small_share * routable).to_integral_value(ROUND_HALF_UP))
        known = scores[~np.isnan(scores)]
        wanted = min(wanted, len(known))
        if wanted == 0:
            return Cutoff(score=_ABOVE_ALL)
        known.partition(len(known) - wanted)
        lowest = known[len(known) - wanted]
        above = int(np.count_nonzero(known > lowest))
        last_tie = np.flatnonzero(scores == lowest)[wanted - above - 1]
        return Cutoff(score=float(lowest), last_tie=int(last_tie))
