"""Bounds: how many tokens, and how much money, rows take at most before a model has answered them."""

from __future__ import annotations

from collections.abc import Sequence

from batchroute.config.job import JobModel
from batchroute.costs.prices import Price
from batchroute.generators.settings import PLACEHOLDER
from batchroute.prompt import Prompt, content_text, is_text_part
from batchroute.storage.receipts import Receipt

Amount = tuple[int, int]
"""Pico-dollars and tokens."""

# A chat template puts fewer tokens than this around a message.
_AROUND_A_MESSAGE = 16
# Providers take fewer for an image of usual size.
_A_PART = 2_048
# For pieces that an earlier version wrote, without the bytes of their prompts.
_BYTES_A_TOKEN = 4
_LIMITS = ("max_tokens", "max_completion_tokens", "max_new_tokens", "max_output_tokens")


class Bounds:
    """Bounds of the rows of one model.

    No tokenizer makes more tokens than a text has bytes, special tokens aside, so that bytes bound what is read. That
    is about four times what is read of English text; it matters only where little is left of a limit.
    """

    def __init__(self, model: JobModel, price: Price | None) -> None:
        self._price, self._answers = price, 1 + model.samples
        asked = [model.extra_body.get(name) for name in _LIMITS]
        self._longest = max([model.generation.max_new_tokens, *(one for one in asked if isinstance(one, int))])
        around = f"{model.system or ''}{(model.template or '').replace(PLACEHOLDER, '')}"
        self._around = len(around.encode()) + 2 * _AROUND_A_MESSAGE

    def of_piece(self, piece: Receipt, rows: int | None = None) -> Amount:
        """The bound of a piece's rows, or of `rows` of them. Pieces of an earlier version count four bytes a token."""
        rows = piece.rows - piece.counts.get("copies", 0) if rows is None else rows
        tokens = piece.counts["tokens"]
        read = max(tokens, piece.counts.get("bytes", _BYTES_A_TOKEN * tokens))
        return self._of(read + rows * self._around, rows)

    def likely_of_piece(self, piece: Receipt, rows: int) -> Amount:
        """As `of_piece`, by the tokens that a tokenizer is likely to make: for batches, which may take a day each, so
        that a bound four times too high would cost days.
        """
        tokens = piece.counts["tokens"]
        read = max(tokens, piece.counts.get("bytes", 0) // _BYTES_A_TOKEN)
        return self._of(read + rows * self._around // _BYTES_A_TOKEN, rows)

    def of_row(self, prompt: Prompt) -> Amount:
        return self._of(_bytes_of(prompt) + self._around, 1)

    def _of(self, read: int, rows: int) -> Amount:
        read, written = self._answers * read, self._answers * rows * self._longest
        by_token = self._price is not None and self._price.by_token
        cost = self._price.of_tokens(read, written) if self._price is not None and by_token else 0
        return cost, read + written


def fitting(bounds: Sequence[Amount], left: Sequence[int | None]) -> int:
    """How many of the first rows fit into what is left of each limit together; None: there is no such limit."""
    taken = [0, 0]
    for number, bound in enumerate(bounds):
        taken = [sum(pair) for pair in zip(taken, bound, strict=True)]
        if any(limit is not None and amount > limit for amount, limit in zip(taken, left, strict=True)):
            return number
    return len(bounds)


def _bytes_of(prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return len(prompt.encode(errors="replace"))
    parts = [part for message in prompt if not isinstance(message["content"], str) for part in message["content"]]
    others = sum(not is_text_part(part) for part in parts)
    texts = sum(len(content_text(message).encode(errors="replace")) + _AROUND_A_MESSAGE for message in prompt)
    return texts + _A_PART * others
