"""The calibration: thresholds with their cost advantage and quality drop, and what else a decision needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict

from batchroute.errors import InputError
from batchroute.router.calibration.gain import Gain
from batchroute.router.calibration.lengths import Lengths
from batchroute.router.notes import CALIBRATION_FILE, read_noted

CalibrationRule = Literal["bounded", "empirical"]

ENOUGH_ROWS = 500
"""With fewer calibration rows the bound leaves little room for routing."""

_COMMON_LIMITS = (0.5, 1.0, 2.0, 5.0)


class Point(BaseModel):
    """One threshold. All drops are in percent; the interval is pointwise, at 95 %.

    Attributes:
        bound: one-sided upper confidence bound of the drop, at the calibration's confidence.
    """

    model_config = ConfigDict(frozen=True)

    threshold: float
    cost_advantage: float
    drop: float
    drop_low: float
    drop_high: float
    bound: float


def within(points: Sequence[Point], limit: float, rule: CalibrationRule) -> Point | None:
    """The point of the largest cost advantage that keeps the drop within `limit` percent; None if none does.

    `empirical` is the rule of "Hybrid LLM" (ICLR 2024, arXiv 2404.14618, section 4.5): the drop on the calibration
    rows is within the limit. It picks the luckiest of many thresholds, so on other rows the drop exceeds the limit
    about every second time.

    `bounded` tests the thresholds in a fixed order, from the highest down, and stops at the first whose bound
    exceeds the limit. So the chance that the chosen threshold breaks the limit is at most 1 − confidence although
    many were tested (fixed-sequence testing; "Learn then Test", arXiv 2110.01052).

    Args:
        points: from the highest threshold to the lowest.
    """
    best = None
    for point in points:
        if (point.bound if rule == "bounded" else point.drop) <= limit:
            best = point
        elif rule == "bounded":
            break
    return best


class MeasuredPoints(BaseModel):
    """What rows that both models answered show of thresholds.

    Attributes:
        rows: how many were measured; prompts: how many different ones.
        models: names of the pair, by side; None where the quality table did not name them.
        reference: `large` if the large model's answers were the truth: the drops are then of the likeness to them.
        confidence: of the bounds.
        points: from the highest threshold, the safest, to the one that keeps all rows on the small model.
    """

    model_config = ConfigDict(frozen=True)

    table_sha256: str
    rows: int
    prompts: int
    models: dict[str, str | None]
    metric: str | None
    reference: Literal["large"] | None = None
    confidence: float
    points: list[Point]

    def within(self, limit: float, rule: CalibrationRule) -> Point | None:
        """See `within`."""
        return within(self.points, limit, rule)


class Calibration(MeasuredPoints):
    """`calibration.json`: thresholds on the router's score.

    Attributes:
        max_length: tokens that the router read of a prompt; with another length the scores are others.
        gain: what a row gains on the large model.
        lengths: tokens that each model reads and writes, by side; empty if the table has no token counts.
    """

    max_length: int
    gain: Gain | None = None
    lengths: dict[str, Lengths] = {}

    @classmethod
    def of(cls, router: str) -> Self:
        """The calibration in the folder of this router.

        Raises:
            InputError: there is none, or it is damaged.
        """
        calibration = cls.known(router)
        if calibration is None:
            raise InputError(
                f"the router '{router}' is not calibrated: run 'batchroute calibrate --quality-table TABLE --router "
                f"{router}', or route by policy.threshold or policy.small_share"
            )
        return calibration

    @classmethod
    def known(cls, router: str) -> Self | None:
        """As `of`, but None if there is none."""
        return read_noted(router, CALIBRATION_FILE, cls)

    def summary(self) -> list[str]:
        """What both rules choose at common limits, a line each, and a warning if the rows are few."""
        title = f"{self.rows:,} rows that the router never saw; share of the rows on the small model, by limit:"
        return summary_of(title, self.points, self.rows, self.reference)


def summary_of(title: str, points: Sequence[Point], rows: int, reference: Literal["large"] | None) -> list[str]:
    """See `Calibration.summary`."""
    lines = [title]
    for limit in _COMMON_LIMITS:
        chosen = {rule: within(points, limit, rule) for rule in get_args(CalibrationRule)}
        shares = [
            f"{rule} {'none' if point is None else f'{point.cost_advantage:.0%} (threshold {point.threshold:.4f})'}"
            for rule, point in chosen.items()
        ]
        lines.append(f"  max_quality_drop {limit:g} %: {', '.join(shares)}")
    if rows < ENOUGH_ROWS:
        lines.append(f"  fewer than {ENOUGH_ROWS} rows: the bounded rule has little room, label more prompts")
    if reference == "large":
        lines.append("  the drops are of the likeness to the large model's answers, not of truth")
    return lines
