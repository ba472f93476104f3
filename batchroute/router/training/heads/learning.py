"""Learning heads from rows: fitted to all of them, and measured on each by heads that were fitted to other rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from batchroute.router.evaluation.curves import MeanQualities, curves
from batchroute.router.heads.ensemble import Ensemble, interpolated
from batchroute.router.heads.members import combined
from batchroute.router.training.figures import separation
from batchroute.router.training.heads.crossing import FOLDS, calibration, cross_fitted, folds_of, lowering
from batchroute.router.training.heads.fitting import Inputs, Lesson, fit

Floats = NDArray[np.float64]

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, slots=True)
class Rows:
    """What heads learn from.

    Attributes:
        texts: that the encoder has read.
        states: its pooled states: float32 [rows, 2 × hidden].
        prompts: rows of one prompt are in one fold.
        targets: labels in [0, 1]: shape [rows].
        weights: 1 on average: shape [rows].
        tasks: a number for each row's task, from 0; None where there are none.
    """

    texts: Sequence[str]
    states: NDArray[np.float32]
    prompts: Sequence[str]
    targets: Floats
    qualities: MeanQualities
    weights: Floats
    tasks: NDArray[np.intp] | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """Heads, and what they are worth.

    Attributes:
        ensemble: fitted to all rows.
        scores: of each row, by heads that were fitted to other folds: float32 [rows].
        alone: the separation of each head by itself, by name.
    """

    ensemble: Ensemble
    scores: NDArray[np.float32]
    alone: dict[str, float]


def learn(rows: Rows, seed: int, say: Callable[[str], None]) -> Learned:
    """Fit heads to all rows, and score each of them by folds.

    Raises:
        InputError: scikit-learn is not installed.
    """
    started = time.perf_counter()
    inputs = Inputs.of(rows.texts, rows.states)
    speak = Seldom(say)
    lesson = Lesson(inputs.features, inputs.features @ inputs.rotation, rows.targets, rows.weights, rows.tasks)
    folds = folds_of(rows.prompts, seed)
    members = cross_fitted(lesson, folds, seed, lambda done: speak(f"fold {done} of {FOLDS}"))
    lesson, members = _with_or_without_tasks(lesson, members, rows.qualities, say)
    lowered, gain = lowering(members, rows.qualities, seed)
    mean, spread = combined(torch.from_numpy(members))
    values = (mean - lowered * spread).numpy()
    knots, levels = calibration(values, rows.targets, rows.weights)
    fitted = fit(lesson, seed)
    ensemble = Ensemble(inputs.projection, inputs.scale, fitted, inputs.rotation, lowered, knots, levels)
    scores = interpolated(torch.from_numpy(values.astype(np.float32)), knots, levels).numpy()
    alone = dict(zip(lesson.heads, (_separation(member, rows.qualities) for member in members.T), strict=True))
    if lowered:
        say(f"scores are lowered by {lowered:g} times the heads' spread, which adds {gain:.3f} to the separation")
    say(f"{len(alone)} heads fitted to {len(rows.texts):,} rows in {time.perf_counter() - started:.0f} s")
    return Learned(ensemble, scores, alone)


def _with_or_without_tasks(
    lesson: Lesson, members: Floats, qualities: MeanQualities, say: Callable[[str], None]
) -> tuple[Lesson, Floats]:
    """Without the head of the tasks' means, where it makes the order of the rows worse: tasks may say little."""
    if lesson.tasks is None:
        return lesson, members
    plain = members[:, ::2]
    without, whole = (_separation(combined(torch.from_numpy(some))[0].numpy(), qualities) for some in (plain, members))
    if without <= whole:
        return lesson, members
    say(f"the table's tasks are not learned from: without them the separation is {without:.3f}, with them {whole:.3f}")
    return replace(lesson, tasks=None), plain


def _separation(scores: Floats, qualities: MeanQualities) -> float:
    return separation(curves(scores, qualities), qualities)


class Seldom:
    """Says a line at most every ten seconds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._spoke = say, time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._spoke >= _SECONDS_BETWEEN_LINES:
            self._say(line)
            self._spoke = time.monotonic()
