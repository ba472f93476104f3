"""The policy section of a job: which rows go to the small model, decided with all scores of the run at hand."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from batchroute.costs.prices import PICO
from batchroute.fields import Share
from batchroute.policy.tonight import CalibrateSpec
from batchroute.router.calibration.points import Calibration, CalibrationRule, Point

Scores = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]

OnDrift = Literal["warn", "large", "stop"]
Decide = Literal["before", "after", "auto"]

RULES = ("threshold", "small_share", "max_quality_drop", "budget")
"""The keys that decide; a policy, or each of its groups, has exactly one."""

DEFAULT = "default"
"""The group of all rows whose value in the column `by` has no group of its own."""

_ABOVE_ALL = 2.0
_LAST_POSITION = int(np.iinfo(np.int64).max)
_USD = "USD"


def _usd(value: object) -> object:
    """Read `25`, `25.50`, `"25 USD"` and `"$25"` as dollars."""
    if not isinstance(value, str):
        return str(value) if isinstance(value, float) else value
    number = value.strip().removeprefix("$").removesuffix(_USD).strip().replace("_", "")
    try:
        return Decimal(number)
    except InvalidOperation as error:
        raise ValueError("must be an amount such as 25 USD") from error


Budget = Annotated[Decimal, BeforeValidator(_usd), Field(ge=0, max_digits=18, decimal_places=6)]


class Cutoff(BaseModel):
    """A row goes to the small model if its score is above `score`, or equal to it at a position up to `last_tie`."""

    model_config = ConfigDict(frozen=True)

    score: float
    last_tie: int = _LAST_POSITION

    @classmethod
    def of_none(cls) -> Self:
        """A cut-off that sends no row to the small model."""
        return cls(score=_ABOVE_ALL)

    def small(self, scores: Scores, positions: Positions) -> npt.NDArray[np.bool_]:
        """Which rows go to the small model; a row without a score (NaN) never does. Shapes: [rows]."""
        # Compared in the scores' own precision, so that a score printed as 0.7 reaches a threshold of 0.7.
        cut = np.float32(self.score)
        small: npt.NDArray[np.bool_] = (scores > cut) | ((scores == cut) & (positions <= self.last_tie))
        return small


class Rule(BaseModel):
    """One rule that trades cost against quality: exactly one of `RULES`."""

    model_config = ConfigDict(extra="forbid")

    threshold: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="small when score ≥ threshold")
    small_share: Share | None = Field(default=None, description="share of the rows, easiest first, to small")
    max_quality_drop: Share | None = Field(
        default=None, description="as many rows to small as this quality drop allows"
    )
    rule: CalibrationRule | None = Field(
        default=None, description="how max_quality_drop chooses a threshold: bounded (default) or empirical"
    )
    budget: Budget | None = Field(default=None, description="USD; buys the most expected quality")

    @property
    def words(self) -> str:
        """The rule in words: `small_share 60 %`, `budget 25 USD`."""
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
    def _has_one_rule(self) -> Self:
        self._check_rules(1)
        return self

    def _check_rules(self, wanted: int) -> None:
        if len(self.given) != wanted:
            raise ValueError(f"give exactly one of {', '.join(RULES)}")
        if self.rule is not None and self.max_quality_drop is None:
            raise ValueError("rule belongs to max_quality_drop: leave it out")

    @property
    def given(self) -> list[str]:
        """The keys of `RULES` that are set."""
        return [name for name in RULES if getattr(self, name) is not None]

    def pays_for(self, picos: int) -> bool:
        """Whether the budget is at least so many pico-dollars."""
        assert self.budget is not None
        return picos <= int(self.budget * PICO)

    def point(self, calibration: Calibration) -> Point | None:
        """The calibrated point for `max_quality_drop`; None if no threshold keeps the drop within it."""
        assert self.max_quality_drop is not None
        return calibration.within(float(100 * self.max_quality_drop), self.rule or "bounded")

    def cutoff(self, scores: Scores, routable: int, calibration: Calibration | None = None) -> Cutoff:
        """The cut-off over all scores of the run, for any rule but a budget.

        A share of the routable rows is met exactly to the row, halves rounded up; among equal scores the first rows go
        to the small model. Costs one copy of `scores`: 4 bytes per row.

        Args:
            scores: shape [rows], by position; NaN where a row has no score.
            routable: number of rows with a usable prompt.
            calibration: the router's; needed for `max_quality_drop`.
        """
        if self.max_quality_drop is not None:
            # Nothing is known of a threshold: none keeps within the limit.
            point = None if calibration is None else self.point(calibration)
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
    """One rule for all rows, or one rule for each group of rows by an input column.

    `{by: tier, gold: {threshold: 1.01}, default: {small_share: 80%}}` is short for `groups: {gold: …, default: …}`.
    The long form allows groups that are named like a key of the policy.
    """

    by: str | None = Field(default=None, description="input column with the groups")
    groups: dict[str, Rule] | None = Field(default=None, description="a rule for each value of by, and a default")
    on_drift: OnDrift | None = Field(
        default=None, description="if the rows drifted from the calibration's: warn (default), large (all rows) or stop"
    )

    decide: Decide | None = Field(
        default=None,
        description="before (default): by the prompt's score; after: by the confidence of the small model's answer; "
        "auto: the way that calibration rows show to be cheaper at the same drop",
    )
    calibrate: CalibrateSpec | None = Field(
        default=None, description="measure some of tonight's rows on both models, and decide by them"
    )
    calibration: str | None = Field(
        default=None, description="folder that 'batchroute calibrate' wrote without a router; decide: after or auto"
    )
    signals: list[str] | None = Field(
        default=None, min_length=1, description="input columns that tell of the small model's answers, such as a log's"
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
        # YAML reads true and 7 as values; the column is matched with their text.
        together = {_name(key): rule for key, rule in {**groups, **named}.items()}
        return {**{key: item for key, item in value.items() if key not in named}, "groups": together}

    @model_validator(mode="after")
    def _has_one_rule(self) -> Self:
        if self.by is None:
            if self.groups is not None:
                raise ValueError("groups need by, the input column whose values they are")
            self._check_rules(1)
        else:
            if self.given:
                raise ValueError(f"{self.given[0]} is for all rows, and by for groups of them: put it into a group")
            if DEFAULT not in (self.groups or {}):
                raise ValueError("a policy by group needs a default, for rows of no other: default: {threshold: 1.01}")
            self._check_rules(0)
        if self.on_drift == "large" and any(rule.budget is not None for _, rule in self.rules()):
            raise ValueError(
                "on_drift: large would send all rows to the large model, whatever the budget: choose warn or stop"
            )
        return self

    @model_validator(mode="after")
    def _decides_by_what_it_has(self) -> Self:
        if self.calibration is not None and not self.looks_after:
            raise ValueError("calibration is what decide: after or auto reads: set decide, or leave calibration out")
        if self.signals is not None and not self.looks_after:
            raise ValueError("signals are what decide: after or auto reads: set decide, or leave signals out")
        if self.calibrate is not None and self.calibration is not None:
            raise ValueError("calibrate measures tonight's rows, calibration has another day's: leave one of them out")
        if self.calibrate is not None and self.on_drift is not None:
            raise ValueError("on_drift is about another day's rows, and calibrate measures tonight's: leave one out")
        return self

    @property
    def looks_after(self) -> bool:
        """Whether the small model's answers may decide."""
        return self.decide in ("after", "auto")

    def rules(self) -> Iterator[tuple[str | None, Rule]]:
        """The rules by group; a rule for all rows has the group None."""
        if self.groups is None:
            yield None, self
        else:
            yield from self.groups.items()


def _name(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
