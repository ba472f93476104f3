"""Signals: what a small model's answer tells about its own quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.intp] | NDArray[np.bool_] | Sequence[int]


@dataclass(frozen=True, slots=True)
class Signals:
    """The signals of some rows: float64, shape [rows], NaN where a signal is unknown.

    Attributes:
        logprob: mean log-probability of the answer's tokens, under the model's own distribution.
        logprob_low: its 10 % quantile over the tokens.
        agreement: share of extra samples that agree with the answer.
        tokens: of the answer.
        cut: 1 where the answer was cut at `max_new_tokens`, else 0.
        score: the router's.
        reading: what a reader of answers makes of the prompt and the answer together.
        extra: recorded signals by name, such as the agreement with a helper's answer.
    """

    logprob: Floats
    logprob_low: Floats
    agreement: Floats
    tokens: Floats
    cut: Floats
    score: Floats
    reading: Floats
    extra: Mapping[str, Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: int, extra: Mapping[str, NDArray[np.floating]] | None = None, **known: object) -> Self:
        """Signals of `rows` rows; those that are not given, or None, are unknown.

        Args:
            known: arrays of shape [rows], by the names above.
        """
        columns = {name: np.full(rows, np.nan) for name in NAMES}
        for name, values in known.items():
            if name not in columns:
                raise TypeError(f"there is no signal '{name}'")
            if values is not None:
                columns[name] = np.asarray(values, np.float64)
        recorded = {name: np.asarray(values, np.float64) for name, values in (extra or {}).items()}
        return cls(**columns, extra=recorded)

    def __len__(self) -> int:
        return len(self.logprob)

    @property
    def columns(self) -> dict[str, Floats]:
        """All signals by name; a recorded one that has the name of a column above is `recorded:NAME`."""
        own = {name: getattr(self, name) for name in NAMES}
        return own | {f"recorded:{name}" if name in own else name: values for name, values in self.extra.items()}

    @property
    def known(self) -> list[str]:
        """The names of the signals that at least one row has."""
        return [name for name, values in self.columns.items() if np.isfinite(values).any()]

    @property
    def tells(self) -> bool:
        """Whether an answer says more than its length, how it ended, and what its prompt said already."""
        return bool(set(self.known) - {"tokens", "cut", "score"})

    def take(self, rows: Rows) -> Self:
        """These rows, in this order."""
        picked = {name: getattr(self, name)[rows] for name in NAMES}
        return type(self)(**picked, extra={name: values[rows] for name, values in self.extra.items()})

    def without(self, *names: str) -> Self:
        """The same rows, with these signals unknown."""
        known = {name: None if name in names else getattr(self, name) for name in NAMES}
        return self.of(len(self), {name: some for name, some in self.extra.items() if name not in names}, **known)


NAMES = tuple(one.name for one in fields(Signals) if one.name != "extra")
"""The signals that a run measures."""
