"""The small model's answers in a quality table, one by one: a job has one answer to a prompt, and its signals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.confidence.signals import Signals
from batchroute.errors import InputError
from batchroute.fields import Side
from batchroute.tables.quality_table import QualityTable, Tokens

Floats = NDArray[np.float64]

MIN_PROMPTS = 50

_MOST_ANSWERS = 10


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of the small model to the rows of a quality table; arrays of shape [answers].

    Every row has as many answers, so that all count the same; a row with fewer samples repeats them.

    Attributes:
        row: the row's number in the table, from 0.
        small: quality of the answer.
        large: mean quality of the large model's answers to the same prompt.
        group: number of the prompt, from 0: equal prompts have equal numbers.
    """

    table: QualityTable
    row: NDArray[np.intp]
    signals: Signals
    small: Floats
    large: Floats
    group: NDArray[np.intp]

    @classmethod
    def of(cls, table: QualityTable, scores: NDArray[np.float32] | None = None) -> Answers:
        """Args:
        scores: the router's, shape [rows]; None without a router.
        """
        each = min(_MOST_ANSWERS, max(len(qualities) for qualities in table.small))
        row = np.repeat(np.arange(len(table)), each)

        def flat(values: Sequence[Floats]) -> Floats:
            return np.concatenate([np.resize(some, each) for some in values])

        known = {name: flat(values) for name, values in table.signals.items()}
        recorded = {name: flat(values) for name, values in table.recorded.items()}
        signals = Signals.of(len(row), recorded, score=None if scores is None else scores[row], **known)
        _, prompt = np.unique(np.array(table.prompts, dtype=object), return_inverse=True)
        return cls(table, row, signals, flat(table.small), table.large_mean[row], prompt[row].astype(np.intp))

    def __len__(self) -> int:
        return len(self.row)

    @property
    def prompts(self) -> list[str]:
        return [self.table.prompts[row] for row in self.row]

    def check(self) -> None:
        """Raises:
        InputError: the answers have no signals, or are to too few prompts.
        """
        path = self.table.path
        if not self.signals.tells:
            raise InputError(
                f"the quality table '{path}' has no signals of the small model's answers: label the prompts again, or "
                "name columns that tell how good an answer is with --signal"
            )
        if int(self.group.max()) + 1 < MIN_PROMPTS:
            raise InputError(
                f"the quality table '{path}' has {int(self.group.max()) + 1:,} different prompts: at least "
                f"{MIN_PROMPTS} are needed to fit and measure a confidence"
            )

    def tokens(self, side: Side) -> tuple[Floats, Floats] | None:
        """Tokens read and written for each answer; None if the table has none."""
        known = self.table.tokens.get(side)
        if known is None:
            return None
        written = known.written[self.row]
        if side == "small":
            written = np.where(np.isfinite(self.signals.tokens), self.signals.tokens, written)
        return known.read[self.row], written

    @property
    def sample_tokens(self) -> tuple[Floats, Floats] | None:
        """Tokens that the small model read and wrote for extra samples; None if the table has none."""
        known: Tokens | None = self.table.sample_tokens
        return None if known is None else (known.read[self.row], known.written[self.row])
