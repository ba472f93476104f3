"""Calibrating: measure what each threshold costs in quality, on rows that the router never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from batchroute import models
from batchroute.errors import InputError
from batchroute.router.calibration.drops import CONFIDENCE, points_of
from batchroute.router.calibration.gain import Gain
from batchroute.router.calibration.lengths import Lengths
from batchroute.router.calibration.points import ENOUGH_ROWS, Calibration
from batchroute.router.drift.reference import measure
from batchroute.router.notes import CALIBRATION_FILE, REFERENCE_FILE, Notes, put
from batchroute.tables import quality_table
from batchroute.tables.quality_table import QualityTable

if TYPE_CHECKING:
    import torch

MIN_ROWS = 50


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration, and the rows that it was measured on with their scores."""

    calibration: Calibration
    table: QualityTable
    scores: NDArray[np.float32]


def calibrate(quality_table_path: str, router: str, device: torch.device, seed: int = 0) -> Calibration:
    """Measure a router on the rows of a quality table that it never saw.

    Writes `calibration.json` and `reference.json` into the router's folder, replacing earlier ones.

    Raises:
        InputError: too few such rows, a table of another pair of models, a router that cannot be loaded or written to,
            or that gives no number for some prompts.
    """
    return calibrate_router(quality_table.read(quality_table_path), router, device, seed).calibration


def calibrate_router(whole: QualityTable, router: str, device: torch.device, seed: int = 0) -> Calibrated:
    """As `calibrate`, of a table that was read already."""
    from batchroute.router.model import Router
    from batchroute.router.scoring import score

    folder = Path(models.resolve(router))
    if not folder.is_dir():
        raise InputError(f"the router '{router}' is on a model hub: download it to a directory to calibrate it there")
    notes = Notes.read(router)
    notes.check_pair(whole, router)
    table = notes.held_out(whole)
    if len(table) < MIN_ROWS:
        seen = f"{len(whole) - len(table):,} of {len(whole):,} rows of the quality table '{whole.path}'"
        raise InputError(
            f"the router '{router}' was trained on {seen}, which leaves {len(table):,}: calibrate on at least "
            f"{MIN_ROWS}, better {ENOUGH_ROWS}, that it never saw, or train it with a larger --test share"
        )
    loaded = Router.load(router, device)
    scored = score(loaded, table.prompts, with_embeddings=True).checked(router)
    loaded.close()
    small, large = table.small_mean, table.large_mean
    calibration = Calibration(
        table_sha256=table.sha256,
        rows=len(table),
        prompts=len(set(table.prompts)),
        models={side: table.metadata.get(f"{side}_model") or model for side, model in notes.models.items()},
        metric=table.metadata.get("metric"),
        reference=table.reference,
        max_length=loaded.max_length,
        confidence=CONFIDENCE,
        points=points_of(scored.scores, small, large, table.prompts, seed),
        gain=Gain.fit(scored.scores, scored.tokens, large - small, float(large.mean())),
        lengths=_lengths(table, scored.tokens),
    )
    reference = measure(loaded, table.prompts, scored, seed)
    # The calibration last: once it is there, the folder is complete.
    put(folder / REFERENCE_FILE, reference.model_dump_json())
    put(folder / CALIBRATION_FILE, calibration.model_dump_json(indent=1))
    return Calibrated(calibration, table, scored.scores)


def _lengths(table: QualityTable, router_tokens: NDArray[np.int32]) -> dict[str, Lengths]:
    """By side, for the models that the table has token counts of."""
    lengths = {}
    for side, tokens in table.tokens.items():
        seconds = table.metadata.get(f"{side}_seconds_per_token")
        fitted = Lengths.fit(router_tokens, tokens.read, tokens.written, None if seconds is None else float(seconds))
        if fitted is not None:
            lengths[side] = fitted
    return lengths
