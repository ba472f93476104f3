"""Calibrating a confidence: fit it to a quality table with signals, and measure it on the same rows, cross-fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchroute.confidence.answers import Answers
from batchroute.confidence.calibration import AnsweredRows, ConfidenceCalibration, measure
from batchroute.errors import InputError
from batchroute.fields import SIDES
from batchroute.router.notes import CONFIDENCE_FILE, put
from batchroute.tables.quality_table import QualityTable

Scores = NDArray[np.float32]
Tokens = tuple[NDArray[np.float64], NDArray[np.float64]]

_MOST, _DIGITS = 4_000, 6


def calibrate_confidence(
    table: QualityTable, scores: Scores | None, seed: int = 0, reader: str | None = None
) -> ConfidenceCalibration:
    """Fit and measure the confidence of the small model's answers.

    Args:
        table: rows that neither the router nor the reader saw, if there are such.
        scores: the router's, shape [rows]; None without a router.
        reader: digest of the reader that gave the table's readings.

    Raises:
        InputError: the table has no signals or too few prompts, or the large model's mean quality is 0.
    """
    answers = Answers.of(table, scores)
    answers.check()
    measured = measure(answers.signals, answers.small, answers.large, answers.prompts, seed)
    return ConfidenceCalibration(
        table_sha256=table.sha256,
        rows=len(answers),
        prompts=int(answers.group.max()) + 1,
        models={side: table.metadata.get(f"{side}_model") for side in SIDES},
        metric=table.metadata.get("metric"),
        reference=table.reference,
        model=measured.model,
        points=measured.points,
        large_mean=float(answers.large.mean()),
        answered=answered_rows(answers, scores, measured.confidence, _MOST),
        reader=reader,
        seconds_per_token=seconds_per_token(table),
    )


def write(calibration: ConfidenceCalibration, folder: Path) -> None:
    """Write `confidence.json`, replacing an earlier one. The folder is made if it is missing.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder '{folder}': {error.strerror}") from error
    put(folder / CONFIDENCE_FILE, calibration.model_dump_json(indent=1))


def seconds_per_token(table: QualityTable) -> dict[str, float]:
    """By side, where the table says it."""
    known = {side: table.metadata.get(f"{side}_seconds_per_token") for side in SIDES}
    return {side: float(seconds) for side, seconds in known.items() if seconds is not None}


def answered_rows(answers: Answers, scores: Scores | None, confidence: Scores, most: int | None = None) -> AnsweredRows:
    """The first answers, at most so many.

    Args:
        scores: the router's, shape [rows of the table]; None without a router.
        confidence: shape [answers].
    """
    kept = slice(0, most)

    def tokens(of: Tokens | None) -> tuple[list[float], list[float]] | None:
        return (rounded(of[0]), rounded(of[1])) if of and all(np.isfinite(some).all() for some in of) else None

    def rounded(values: NDArray[np.floating]) -> list[float]:
        return [round(float(value), _DIGITS) for value in values[kept]]

    return AnsweredRows(
        score=None if scores is None else rounded(scores[answers.row]),
        confidence=rounded(confidence),
        small=rounded(answers.small),
        large=rounded(answers.large),
        group=answers.group[kept].tolist(),
        small_tokens=tokens(answers.tokens("small")),
        large_tokens=tokens(answers.tokens("large")),
        sample_tokens=tokens(answers.sample_tokens),
    )
