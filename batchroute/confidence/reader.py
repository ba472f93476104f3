"""A reader of answers on a quality table: its reading of each of the small model's responses, as one more signal."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from batchroute.confidence.answers import MIN_PROMPTS
from batchroute.confidence.calibration import ConfidenceCalibration
from batchroute.errors import InputError
from batchroute.router.notes import Notes
from batchroute.router.reading import check_reads, identity_of, joined
from batchroute.tables.quality_table import QualityTable

if TYPE_CHECKING:
    import torch

READING = "reading"
Scores = NDArray[np.float32]


def check_reader(table: QualityTable, reader: str | None, calibration: ConfidenceCalibration | None = None) -> None:
    """Before anything is measured.

    Args:
        calibration: of a confidence that is to be measured on the table; None to fit one.

    Raises:
        InputError: the reader is missing, is a router of prompts, or is of another pair of models than the table; or
            the calibration reads another one.
    """
    if reader is not None:
        check_reads(reader, "answer")
        Notes.read(reader).check_pair(table, reader)
    if calibration is None or calibration.table_sha256 == table.sha256 or READING not in calibration.model.columns:
        return
    if reader is None or calibration.reader != identity_of(reader):
        raise InputError(
            "the confidence was calibrated with a reader of answers: name that very reader with --reader, or calibrate "
            "without one"
        )


def with_readings(
    table: QualityTable, scores: Scores | None, reader: str, device: torch.device, all_rows: bool = False
) -> tuple[QualityTable, Scores | None]:
    """The rows whose prompts the reader never saw, with its reading of each response; and their scores.

    Args:
        table: with responses.
        scores: the router's, shape [rows]; None without a router.
        all_rows: keep rows that it was trained on too, which flatters it.

    Raises:
        InputError: too few such rows, a table of another pair of models, or a reader that cannot be loaded or is none.
    """
    from batchroute.router.model import Router
    from batchroute.router.scoring import score

    assert table.responses is not None
    check_reader(table, reader)
    notes = Notes.read(reader)
    rows = np.arange(len(table)) if all_rows else notes.unseen(table)
    if len(rows) < MIN_PROMPTS:
        raise InputError(
            f"the reader '{reader}' was trained on {len(table) - len(rows):,} of {len(table):,} rows of the quality "
            f"table '{table.path}', which leaves {len(rows):,}: at least {MIN_PROMPTS} are needed that it never saw, "
            "so give another table, or train it with a larger --test share"
        )
    table, scores = table.take(rows), None if scores is None else scores[rows]
    assert table.responses is not None
    texts = [
        joined(prompt, answer)
        for prompt, answers in zip(table.prompts, table.responses, strict=True)
        for answer in answers
    ]
    loaded = Router.load(reader, device, reads="answer")
    readings = iter(score(loaded, texts).scores.astype(np.float64))
    loaded.close()
    by_row = [
        np.array([next(readings) for _ in answers]) if answers else np.full(len(small), np.nan)
        for answers, small in zip(table.responses, table.small, strict=True)
    ]
    return dataclasses.replace(table, signals={**table.signals, READING: by_row}), scores
