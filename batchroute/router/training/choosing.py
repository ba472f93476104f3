"""Which method learns: heads, or the whole encoder. `auto` measures what this machine can measure in minutes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.router.evaluation.curves import MeanQualities, curves
from batchroute.router.training.figures import separations
from batchroute.tables.quality_table import QualityTable

_RESAMPLES, _SURE = 1_000, 0.9


def without_measuring(processes: int, gpu: bool) -> tuple[str, str] | None:
    """The method that `auto` takes where it measures nothing, with the reason; None where it measures both."""
    if importlib.util.find_spec("sklearn") is None:
        return "finetune", "fine-tuning, since heads need scikit-learn: pip install 'batchroute[train]'"
    if processes > 1:
        return "finetune", f"fine-tuning, since {processes} processes were started for it"
    if not gpu:
        return "heads", (
            "heads are taken: without a GPU, fine-tuning takes tens of minutes for some thousand rows, so it was not "
            "tried; --method finetune tries it"
        )
    return None


@dataclass(frozen=True, slots=True)
class Contest:
    """Both methods on the same validation rows, which neither was fitted to.

    Attributes:
        heads, finetuned: separation.
        better_in: share of the resamples in which fine-tuning separates better.
    """

    heads: float
    finetuned: float
    better_in: float
    rows: int

    @classmethod
    def of(cls, heads: NDArray[np.float32], finetuned: NDArray[np.float32], rows: QualityTable, seed: int) -> Contest:
        qualities = MeanQualities.of(rows.small_mean, rows.large_mean, rows.prompts)
        draws = qualities.draws(_RESAMPLES, seed)
        both = [separations(curves(scores, qualities, draws), qualities) for scores in (heads, finetuned)]
        return cls(float(both[0][0]), float(both[1][0]), float((both[1][1:] > both[0][1:]).mean()), len(rows))

    @property
    def winner(self) -> str:
        """Heads, unless fine-tuning is better with confidence: they learn from the validation rows too."""
        return "finetune" if self.better_in >= _SURE else "heads"

    def sentence(self) -> str:
        taken = "fine-tuning is" if self.winner == "finetune" else "heads are"
        return (
            f"{taken} taken: on {self.rows:,} validation rows heads order with separation {self.heads:.3f} and the "
            f"fine-tuned encoder with {self.finetuned:.3f}, which is better in {self.better_in:.0%} of the resamples"
        )
