"""The calibration of a confidence: the quality drop if rows above it stay on the small model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batchroute.confidence.crossing import cross_fitted
from batchroute.confidence.model import ConfidenceModel
from batchroute.confidence.signals import Signals
from batchroute.errors import InputError
from batchroute.router.calibration.drops import CONFIDENCE, points_of
from batchroute.router.calibration.points import MeasuredPoints, Point, summary_of
from batchroute.router.notes import CONFIDENCE_FILE, read_json

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]


_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows that both models answered: their confidences, and what keeping those above each confidence costs.

    Attributes:
        model: fitted to all of the rows; for every other row.
        confidence: of the rows, each by a model that was not fitted to it: shape [rows].
        points: by confidence, from the highest to the lowest.
    """

    model: ConfidenceModel
    confidence: Scores
    points: list[Point]


def measure(
    signals: Signals,
    small: Floats,
    large: Floats,
    prompts: Sequence[str],
    seed: int,
    model: ConfidenceModel | None = None,
    resamples: int = _RESAMPLES,
) -> Measured:
    """Fit the confidence to rows that both models answered, and measure its points on them.

    Args:
        small, large: shape [rows]; qualities.
        prompts: rows of the same prompt count as one together.
        model: one that was fitted to other rows, to be measured instead.
        seed: of the folds and of the bootstrap.
        resamples: of the points' intervals; no rule reads these, and they take most of the time.

    Raises:
        InputError: the large model's mean quality is 0.
    """
    if model is None:
        gaps = small - large
        _, prompt, count = np.unique(np.array(prompts, dtype=object), return_inverse=True, return_counts=True)
        group, weights = prompt.astype(np.intp), 1.0 / count[prompt]
        model = ConfidenceModel.fit(signals, gaps, weights, group)
        confidence = cross_fitted(signals, gaps, seed, groups=group, weights=weights)
    else:
        confidence = model.apply(signals)
    return Measured(model, confidence, points_of(confidence, small, large, prompts, seed, resamples))


class AnsweredRows(BaseModel):
    """The calibration's rows, from which a job with its own prices decides whether to decide before or after.

    Every list has one entry a row. Qualities are means over the samples; tokens are those that each model read and
    wrote, None where they are unknown.

    Attributes:
        score: the router's; None without a router.
        confidence: by a model that was not fitted to the row.
        group: number of the row's prompt.
        sample_tokens: read and written for the extra samples of the small model.
    """

    model_config = ConfigDict(frozen=True)

    score: list[float] | None
    confidence: list[float]
    small: list[float]
    large: list[float]
    group: list[int]
    small_tokens: tuple[list[float], list[float]] | None = None
    large_tokens: tuple[list[float], list[float]] | None = None
    sample_tokens: tuple[list[float], list[float]] | None = None


class ConfidenceCalibration(MeasuredPoints):
    """`confidence.json`: thresholds on the confidence. `rows` are the small model's answers.

    Attributes:
        model: makes a row's confidence of its signals.
        answered: the rows; to compare deciding before and after by a job's own prices.
        reader: digest of the reader of answers whose reading is a signal; None without one.
        seconds_per_token: by side, as `label` measured them; for prices by time.
    """

    confidence: float = CONFIDENCE
    model: ConfidenceModel
    large_mean: float
    answered: AnsweredRows | None = None
    reader: str | None = None
    seconds_per_token: dict[str, float] = Field(default_factory=dict)

    def summary(self) -> list[str]:
        """What both rules choose at common limits, a line each."""
        title = (
            f"{self.rows:,} answers to {self.prompts:,} prompts; share of the rows that stay on the small model, by "
            "limit, if its answers are seen first:"
        )
        return summary_of(title, self.points, self.prompts, self.reference)

    @classmethod
    def known(cls, folder: str | Path) -> Self | None:
        """The calibration in a local folder; None if there is none.

        Raises:
            InputError: the file is damaged.
        """
        file = Path(folder).expanduser() / CONFIDENCE_FILE
        values = read_json(file)
        if values is None:
            return None
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            place = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise InputError(f"'{file}' is damaged at {place}: calibrate again") from error

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        """As `known`.

        Raises:
            InputError: there is none, or it is damaged.
        """
        calibration = cls.known(folder)
        if calibration is None:
            what = "has no " + CONFIDENCE_FILE if Path(folder).is_dir() else "is not a folder"
            raise InputError(
                f"'{folder}' {what}: 'batchroute calibrate --quality-table TABLE --output {folder}' makes it of a "
                "table with signals, as 'batchroute label' makes one"
            )
        return calibration
