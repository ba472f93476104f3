"""What the router's workshop says: training while it works, and the figures of an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable

from batchroute.router.evaluation.figures import Figures
from batchroute.router.training.learner import Progress

_SECONDS_BETWEEN_LINES = 10.0
_LOG_WIDTH = 130


class Narrator:
    """Turns training progress into lines: one an epoch, and one every ten seconds between."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._spoke = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if progress.validation is not None:
            self._say(f"epoch {progress.epoch}/{progress.epochs}: {describe(progress.validation)}")
        elif time.monotonic() - self._spoke < _SECONDS_BETWEEN_LINES:
            return
        else:
            step = f"step {progress.step}/{progress.steps}"
            self._say(f"epoch {progress.epoch}/{progress.epochs}, {step}: loss {progress.loss:.3f}")
        self._spoke = time.monotonic()


def describe(figures: Figures) -> str:
    """Figures on validation rows, in words."""
    shares = "/".join(f"{share:.0%}".rstrip("%") for share in figures.cost_advantage)
    drop, chance = (" / ".join(f"{value:.1f}" for value in values) for values in (figures.drop, figures.random_drop))
    return (
        f"quality drop with {shares} % of rows on the small model: {drop} % (at random: {chance} %); "
        f"separation {figures.separation:.3f}"
    )
