"""The policy: which rows go to the small model, decided on all scores of the run."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from batchroute.fields import Share
from batchroute.router.calibration.calibrate import Calibration, CalibrationRule, Point
from batchroute.router.drift.measure import OnDrift

Scores = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]

RULES = ("threshold", "small_share", "max_quality_drop", "budget")
"""The keys that decide; a policy, or a group of one, has one of them."""

DEFAULT = "default"
"""The group of all rows whose value of the column `by` has no group of its own."""

_ABOVE_ALL = 2.0
_LAST_POSITION = int(np.iinfo(np.int64).max)
_USD = "USD"


def _usd(value: object) -> object:
    """`25`, `25.50`, `"25 USD"` and `"$25"` are amounts of dollars."""
    if not isinstance(value, str):
        return str(value) if isinstance(value, float) else value
    number = value.strip().removeprefix("$").removesuffix(_USD).strip().replace("_", "")
    try:
        return Decimal(number)
    except InvalidOperation as error:
        raise ValueError("must be an amount such as 25 USD") from error


Budget = Annotated[Decimal, BeforeValidator(_usd), Field(ge=0, max_digits=18, decimal_places=6)]


class Cutoff(BaseModel):
    """A decision: a row goes to the small model when its score is above `score`, or equal to it and the row is not
    after `last_tie`."""

    model_config = ConfigDict(frozen=True)

    score: float
    last_tie: int = _LAST_POSITION

    @classmethod
    def of_none(cls) -> Self:
        """No row goes to the small model."""
        return cls(score=_ABOVE_ALL)

    def small(self, scores: Scores, positions: Positions) -> npt.NDArray[np.bool_]:
        """Which rows go to the small model; a row without a score (NaN) never does. Shapes: all [rows]."""
        # In the scores' own precision: a score that is printed as 0.7 reaches a threshold of 0.7.
        cut = np.float32(self.score)
        small: npt.NDArray[np.bool_] = (scores > cut) | ((scores == cut) & (positions <= self.last_tie))
        return small


class Rule(BaseModel):
    """Exactly one way to trade cost against quality."""

    model_config = ConfigDict(extra="forbid")

    threshold: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="small when score ≥ threshold")
    small_share: Share | None = Field(default=None, description="this share of the rows, the easiest, to small")
    max_quality_drop: Share | None = Field(default=None, description="as many to small as this drop in quality allows")
    rule: CalibrationRule | None = Field(
        default=None, description="of max_quality_drop: bounded, unless set, or empirical"
    )
    budget: Budget | None = Field(default=None, description="USD; the most quality that this much is expected to buy")

    @property
    def words(self) -> str:
        """As people say it: `small_share 60 %`, `budget 25 USD`."""
        if self.threshold is not None:
            return f"threshold {self.threshold:g}"
        if self.budget is not None:
            return f"budget {self.budget.normalize():f} {_USD}"
        if self.small_share is not None:
            return f"small_share {float(100 * self.small_share):g} %"
        if self.max_quality_drop is not None:
            return f"max_quality_drop {float(100 * self.max_quality_drop):g} % ({self.rule or 'bounded'})"
        return "by group"

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        self._check_ways(1)
        return self

    def _check_ways(self, wanted: int) -> None:
        if len(self.given) != wanted:
            raise ValueError(f"give exactly one of {', '.join(RULES)}")
        if self.rule is not None and self.max_quality_drop is None:
            raise ValueError("rule belongs to max_quality_drop: leave it out")

    @property
    def given(self) -> list[str]:
        return [name for name in RULES if getattr(self, name) is not None]

    def point(self, calibration: Calibration) -> Point | None:
        """The calibrated point that `max_quality_drop` asks for; None: no threshold keeps the drop within it."""
        assert self.max_quality_drop is not None
        return calibration.within(float(100 * self.max_quality_drop), self.rule or "bounded")

    def decide(self, scores: Scores, routable: int, calibration: Calibration | None = None) -> Cutoff:
        """The cut-off over all scores of the run, of any way but a budget.

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
            return Cutoff.of_none() if point is None else Cutoff(score=point.threshold)
        if self.threshold is not None:
            return Cutoff(score=self.threshold)
        assert self.small_share is not None
        wanted = int((self.small_share * routable).to_integral_value(ROUND_HALF_UP))
        known = scores[~np.isnan(scores)]
        wanted = min(wanted, len(known))
        if wanted == 0:
            return Cutoff.of_none()
        known.partition(len(known) - wanted)
        lowest = known[len(known) - wanted]
        above = int(np.count_nonzero(known > lowest))
        last_tie = np.flatnonzero(scores == lowest)[wanted - above - 1]
        return Cutoff(score=float(lowest), last_tie=int(last_tie))


class Policy(Rule):
    """One way for all rows, or one for each group of them, by an input column.

    `{by: tier, gold: {threshold: 1.01}, default: {small_share: 80%}}` is short for `groups: {gold: …, default: …}`,
    which is there for a group that has the name of a key.
    """

    by: str | None = Field(default=None, description="input column with the groups")
    groups: dict[str, Rule] | None = Field(default=None, description="a way for each value of by, and a default")
    on_drift: OnDrift | None = Field(
        default=None, description="when the rows are not like the calibration's: warn, unless set; large: all; or stop"
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_groups(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "by" not in value:
            return value
        named = {key: rule for key, rule in value.items() if key not in cls.model_fields}
        groups = value.get("groups") or {}
        if not isinstance(groups, dict):
            return value
        # A value of true or 7 in the column is matched as it is written.
        together = {_name(key): rule for key, rule in {**groups, **named}.items()}
        return {**{key: item for key, item in value.items() if key not in named}, "groups": together}

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        if self.by is None:
            if self.groups is not None:
                raise ValueError("groups need by, the input column whose values they are")
            self._check_ways(1)
        else:
            if self.given:
                raise ValueError(f"{self.given[0]} is for all rows, and by for groups of them: put it into a group")
            if DEFAULT not in (self.groups or {}):
                raise ValueError("a policy by group needs a default, for rows of no other: default: {threshold: 1.01}")
            self._check_ways(0)
        if self.on_drift == "large" and any(rule.budget is not None for _, rule in self.rules()):
            raise ValueError(
                "on_drift: large would send all rows to the large model, whatever the budget: choose warn or stop"
            )
        return self

    def rules(self) -> Iterator[tuple[str | None, Rule]]:
        """By group; all rows are the group None."""
        if self.groups is None:
            yield None, self
        else:
            yield from self.groups.items()


def _name(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
