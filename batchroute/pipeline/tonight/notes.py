"""What tonight's calibration says in the log: how many rows a limit lets stay, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from batchroute.pipeline.tonight.draw import FEWEST_ROWS
from batchroute.policy.settings import Rule
from batchroute.router.calibration.points import Calibration
from batchroute.words import plural

# A smaller share seldom pays for asking the small model first.
_FEW = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured rows of a group.

    Attributes:
        prompts: number of different ones.
        small, large: mean qualities; NaN without rows.
    """

    prompts: int
    small: float
    large: float


def notes(
    rules: Mapping[str, Rule],
    measured: Mapping[str, Measured],
    found: Mapping[str, Calibration],
    names: Mapping[str, str],
    by_likeness: bool,
) -> Iterator[str]:
    """A sentence for each group that has too few measured rows, or a limit.

    Args:
        found: the calibrations that decide.
        names: what stands before a group's sentence.
    """
    for group, rule in rules.items():
        rows, calibration, limited = measured[group], found.get(group), rule.max_quality_drop is not None
        if calibration is None:
            effect = "its limit lets no row stay" if limited else "no drop is known"
            yield (
                f"{names[group]}the calibration measured {plural(rows.prompts, 'different prompt')}, and {FEWEST_ROWS} "
                f"are needed, so {effect}: raise policy.calibrate.rows"
            )
        elif limited:
            point = rule.point(calibration)
            stays = 0.0 if point is None else point.cost_advantage
            what = "likeness to the large model's answers" if by_likeness else "quality"
            told = f"{'no row' if point is None else f'{stays:.0%} of the rows'} stay"
            meaning = ", or compare by meaning (metric embedding or judge)" if by_likeness else ""
            remedy = f"; raise the limit or policy.calibrate.rows{meaning}" if stays < _FEW else ""
            yield (
                f"{names[group]}{rule.words} lets {told}: on {plural(rows.prompts, 'measured prompt')} the mean {what} "
                f"is {rows.small:.2f} for the small model and {rows.large:.2f} for the large one{remedy}"
            )
