"""What every generator backend shares: its prompts, its responses and its interface."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Message = dict[str, str]
"""One chat message: `{"role": …, "content": …}`."""

Prompt = str | list[Message]
"""A prompt is a text or a list of chat messages."""

ANSWERED_ALL_THE_SAME = ("refused", "invalid_response")
"""Error types of answers that the model gave, and a provider bills, but that are of no use."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a model made of one prompt.

    `input_tokens` counts every token that the model read (template and special tokens included), `output_tokens` every
    token that it produced, the end-of-sequence token included: what a server would bill. `cached_tokens` are those of
    the input that a provider had read before, `reasoning_tokens` those of the output that are not in the text.
    `estimated`: the tokens were counted here, since the endpoint did not say. At least one of `text` and `error_type`
    is set; both are where a text was checked and found invalid.
    """

    text: str | None = None
    finish_reason: Literal["stop", "length"] | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    error_type: str | None = None
    error: str | None = None
    attempts: int = 1
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def answered(self) -> bool:
        """Whether the model answered, so that its tokens count, whatever the answer is worth."""
        return self.error_type is None or self.error_type in ANSWERED_ALL_THE_SAME


class Generator(Protocol):
    """A loaded model, or a way to one. Made by `batchroute.generators.load`; `close` gives its memory back.

    Attributes:
        load_seconds: what loading took.
        rows_at_a_time: how many rows to hand over at once; more fill batches better, fewer show signs of life sooner.
        units_at_once: how many units to ask for side by side, from as many threads.
    """

    load_seconds: float
    rows_at_a_time: int
    units_at_once: int

    @property
    def notes(self) -> Sequence[str]:
        """What an operator should know of how it generates, one sentence each; they may come at any time."""
        ...

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        """One response a prompt, in the order of the prompts.

        A prompt that this model cannot answer (too long, wrong chat structure, an error of the model) comes back as a
        `Response` with `error_type`; only what would fail for every prompt raises.

        Args:
            prompts: any number; the generator forms its own batches.
            seeds: one a prompt, for sampling; a row's response depends on its own seed alone.

        Raises:
            InputError: the key, the endpoint or the model is wrong for every prompt.
            StoppedError: so many rows failed alike that the rest would only burn money.
        """
        ...

    def close(self) -> None:
        """Safe from another thread: calls of `generate` under way end at once, by an exception or their result."""
        ...


def row_seed(seed: int, position: int, sample: int = 0) -> int:
    """The sampling seed of one row: the same whatever batch, unit or process the row is in (63 bits)."""
    digest = hashlib.blake2b(f"{seed}/{position}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def as_messages(prompt: Prompt, system: str | None) -> list[Message]:
    """The prompt as chat messages, with the system message in front where one is set."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [{"role": "system", "content": system}, *messages] if system is not None else messages


def as_text(prompt: Prompt) -> str:
    """The prompt as one text: the contents of its messages, a blank line between them. Also what a router reads."""
    return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)
