"""Training heads: the encoder stays as it is, several heads learn from its states, and their mean is the score."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batchroute import models
from batchroute.models import HEADS_FILE
from batchroute.router.evaluation.curves import MeanQualities
from batchroute.router.heads.ensemble import Ensemble
from batchroute.router.labels import Labels
from batchroute.router.notes import ROUTER_FILE
from batchroute.router.training.answers import texts_of
from batchroute.router.training.checkpoints import Checkpoints
from batchroute.router.training.encoders import frozen_encoder, save_encoder
from batchroute.router.training.figures import Figures, figures_of
from batchroute.router.training.heads.cache import states_of
from batchroute.router.training.heads.crossing import FOLDS
from batchroute.router.training.heads.fitting import numbered
from batchroute.router.training.heads.learning import Rows, Seldom, learn
from batchroute.router.training.options import TrainOptions
from batchroute.tables.quality_table import QualityTable


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
    targets = labels.apply(table.small, table.large).astype(np.float64)
    qualities = MeanQualities.of(table.small_mean, table.large_mean, table.prompts)
    weights = np.ones(len(table)) if table.weights is None else table.weights / table.weights.mean()
    rows = Rows(texts, states, table.prompts, targets, qualities, weights, numbered(table.tasks))
    learned = learn(rows, options.seed, say)
    figures = figures_of(learned.scores, targets.astype(np.float32), qualities)
    return HeadsResult(learned.ensemble, figures, learned.alone, max_length)


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
    speak = Seldom(say)
    started = time.perf_counter()

    def on_done(done: int, whole: int) -> None:
        speak(f"the encoder has read {done:,} of {whole:,} {what}")
        if done == whole:
            say(f"the encoder read {whole:,} {what} in {time.perf_counter() - started:.0f} s")

    states = states_of(router, identity, options.quality_table, texts, on_done, say)
    router.close()
    return states, router.max_length
