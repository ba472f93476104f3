"""Training heads: the encoder stays as it is, several heads learn from its states, and their mean is the score."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batchroute import models
from batchroute.models import HEADS_FILE
from batchroute.router.evaluation.curves import MeanQualities, curves
from batchroute.router.heads.ensemble import Ensemble, interpolated
from batchroute.router.heads.members import combined
from batchroute.router.labels import Labels
from batchroute.router.notes import ROUTER_FILE
from batchroute.router.training.answers import texts_of
from batchroute.router.training.checkpoints import Checkpoints
from batchroute.router.training.encoders import frozen_encoder, save_encoder
from batchroute.router.training.figures import Figures, figures_of, separation
from batchroute.router.training.heads.cache import states_of
from batchroute.router.training.heads.crossing import FOLDS, calibration, cross_fitted, folds_of, lowering
from batchroute.router.training.heads.fitting import Inputs, Lesson, fit, numbered
from batchroute.router.training.options import TrainOptions
from batchroute.tables.quality_table import QualityTable

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, slots=True)
class HeadsResult:
    """Heads as they are written.

    Attributes:
        figures: on the training rows, by heads that were fitted to other folds.
        alone: the separation of each head by itself, by name.
        max_length: tokens that the encoder reads.
    """

    ensemble: Ensemble
    figures: Figures
    alone: dict[str, float]
    max_length: int

    def sentence(self) -> str:
        alone = ", ".join(f"{name} {value:.3f}" for name, value in self.alone.items())
        return (
            f"heads order rows that they were not fitted to ({FOLDS} folds) with separation "
            f"{self.figures.separation:.3f}; each alone: {alone}"
        )


def fit_heads(
    options: TrainOptions,
    labels: Labels,
    table: QualityTable,
    device: torch.device,
    say: Callable[[str], None],
) -> HeadsResult:
    """Fit heads to all rows of `table`, and measure them by folds.

    Args:
        table: for a reader of answers with one response a row.

    Raises:
        InputError: the base cannot be loaded, or scikit-learn is not installed.
    """
    texts = texts_of(table, options.reads)
    states, max_length = _states(options, texts, device, say)
    started = time.perf_counter()
    inputs = Inputs.of(texts, states)
    targets = labels.apply(table.small, table.large).astype(np.float64)
    weights = np.ones(len(table)) if table.weights is None else table.weights / table.weights.mean()
    speak = _Seldom(say)
    folds = folds_of(table.prompts, options.seed)
    lesson = Lesson(inputs.features, inputs.features @ inputs.rotation, targets, weights, numbered(table.tasks))
    members = cross_fitted(lesson, folds, options.seed, lambda done: speak(f"fold {done} of {FOLDS}"))
    qualities = MeanQualities.of(table.small_mean, table.large_mean, table.prompts)
    lesson, members = _with_or_without_tasks(lesson, members, qualities, say)
    lowered, gain = lowering(members, qualities, options.seed)
    mean, spread = combined(torch.from_numpy(members))
    values = (mean - lowered * spread).numpy()
    knots, levels = calibration(values, targets, weights)
    fitted = fit(lesson, options.seed)
    ensemble = Ensemble(inputs.projection, inputs.scale, fitted, inputs.rotation, lowered, knots, levels)
    scores = interpolated(torch.from_numpy(values.astype(np.float32)), knots, levels).numpy()
    figures = figures_of(scores, targets.astype(np.float32), qualities)
    alone = dict(zip(lesson.heads, (_separation(member, qualities) for member in members.T), strict=True))
    if lowered:
        say(f"scores are lowered by {lowered:g} times the heads' spread, which adds {gain:.3f} to the separation")
    say(f"{len(alone)} heads fitted to {len(table):,} rows in {time.perf_counter() - started:.0f} s")
    return HeadsResult(ensemble, figures, alone, max_length)


def _with_or_without_tasks(
    lesson: Lesson, members: NDArray[np.float64], qualities: MeanQualities, say: Callable[[str], None]
) -> tuple[Lesson, NDArray[np.float64]]:
    """Without the head of the tasks' means, where it makes the order of the rows worse: tasks may say little."""
    if lesson.tasks is None:
        return lesson, members
    plain = members[:, ::2]
    without, whole = (_separation(combined(torch.from_numpy(some))[0].numpy(), qualities) for some in (plain, members))
    if without <= whole:
        return lesson, members
    say(f"the table's tasks are not learned from: without them the separation is {without:.3f}, with them {whole:.3f}")
    return replace(lesson, tasks=None), plain


def _separation(scores: NDArray[np.float64], qualities: MeanQualities) -> float:
    return separation(curves(scores, qualities), qualities)


def write_heads(options: TrainOptions, result: HeadsResult, notes: dict[str, Any]) -> None:
    """Write the router's folder: the encoder as a plain Hugging Face folder, the heads and the notes.

    Raises:
        InputError: the output cannot be written.
    """
    checkpoints = Checkpoints(options.output, "heads")
    checkpoints.prepare()
    folder = checkpoints.epoch(1)
    with checkpoints.writing():
        folder.mkdir(exist_ok=True)
        save_encoder(options.base, folder, options.allow_pickle)
        result.ensemble.save(folder)
        text = json.dumps(notes, indent=2, ensure_ascii=False)
        (folder / ROUTER_FILE).write_text(text + "\n", encoding="utf-8")
        readable_as(folder / ROUTER_FILE, folder)
    checkpoints.publish(1)


def readable_as(file: Path, folder: Path) -> None:
    """safetensors makes files that only their owner can read; a job may run as another user."""
    for weights in folder.glob("*.safetensors"):
        weights.chmod(file.stat().st_mode)


def _states(
    options: TrainOptions, texts: Sequence[str], device: torch.device, say: Callable[[str], None]
) -> tuple[NDArray[np.float32], int]:
    """The pooled states of the texts, and the length that they were computed with."""
    router = frozen_encoder(options.base, options.max_length, device, options.allow_pickle, options.reads)
    what = "prompts" if options.reads == "prompt" else "answers with their prompts"
    identity = models.identity(options.base, ignore=[HEADS_FILE, ROUTER_FILE])
    speak = _Seldom(say)
    started = time.perf_counter()

    def on_done(done: int, whole: int) -> None:
        speak(f"the encoder has read {done:,} of {whole:,} {what}")
        if done == whole:
            say(f"the encoder read {whole:,} {what} in {time.perf_counter() - started:.0f} s")

    states = states_of(router, identity, options.quality_table, texts, on_done, say)
    router.close()
    return states, router.max_length


class _Seldom:
    """Says a line at most every ten seconds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._spoke = say, time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._spoke >= _SECONDS_BETWEEN_LINES:
            self._say(line)
            self._spoke = time.monotonic()
