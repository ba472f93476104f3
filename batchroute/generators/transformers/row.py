"""Refilled batches, a row: a request, and what has been written of its response."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from batchroute.generators.transformers.rows import Request


@dataclass(slots=True, eq=False)
class Row:
    """A request, and the state of its response.

    Attributes:
        prefix: the first tokens of the prompt, if the model prefills them once for all rows that begin with them.
        shared: whether the prefix is kept once for all rows, which one prefix can be, or copied into the row's slot.
        written: the tokens of the response so far.
        logprobs: of `written`; empty if the model is not asked for them.
        uniforms: the random numbers of sampling, one for each token; None for greedy decoding.
        lost: the model gave no numbers for the row, which ends it.
    """

    request: Request
    prefix: tuple[int, ...] = ()
    shared: bool = False
    written: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    uniforms: NDArray[Any] | None = None
    lost: bool = False

    @property
    def unread(self) -> list[int]:
        """The tokens to prefill: without the prefix, and without the last one, which the first step takes."""
        return self.request.tokens[len(self.prefix) : -1]

    @property
    def position(self) -> int:
        """The position of the token that the next step takes."""
        return len(self.request.tokens) + len(self.written) - 1

    @property
    def column(self) -> int:
        """The column of the row's slot for that token."""
        return self.position - (len(self.prefix) if self.shared else 0)
