"""What `batchroute train` prints while it works."""

from __future__ import annotations

import time
from collections.abc import Callable

from batchroute.router.training.figures import Figures
from batchroute.router.training.learner import Progress

_SECONDS_BETWEEN_LINES = 10.0


class Narrator:
    """Turns training progress into lines: one line per epoch, and one every ten seconds in between."""

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
    drop, random = (" / ".join(f"{value:.1f}" for value in values) for values in (figures.drop, figures.random_drop))
    return (
        f"quality drop with {shares} % of rows on the small model: {drop} % (at random: {random} %); "
        f"separation {figures.separation:.3f}"
    )
