"""What all backends share: prompts, responses and the interface of a generator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from batchroute.errors import StoppedError
from batchroute.prompt import Message, Prompt

if TYPE_CHECKING:
    import pyarrow as pa

ANSWERED_ALL_THE_SAME = ("refused", "invalid_response", "tool_call", "unfinished")
"""Error types of answers that the model gave and a provider bills, but that cannot be used."""


class Response(NamedTuple):
    """The answer to one prompt. `text` or `error_type` is set; both are, if a check found the text invalid.

    A tuple, since millions are made and turned into columns: a frozen dataclass takes seven times as long to make.

    Attributes:
        input_tokens: all tokens that the model read, those of the template and special ones included.
        output_tokens: all tokens that the model wrote, the end-of-sequence token included, as a server bills them.
        attempts: how many times the model was asked.
        cached_tokens: the input tokens that the provider took from its cache.
        reasoning_tokens: the output tokens that are not in the text.
        estimated: batchroute counted the tokens, because the endpoint did not, or not sensibly.
        logprob: the mean log-probability of the answer's tokens (`signals.of_tokens`). None: the model was not asked
            for it, the backend cannot give it, or the row has no answer.
        logprob_low: the 10 % quantile of the same log-probabilities.
        agreement: the share of extra sampled answers that agree with this one; None: none were taken.
        sample_input_tokens: the tokens that the model read for extra samples, beyond `input_tokens`.
        sample_output_tokens: the tokens that the model wrote in extra samples.
        tool_calls: the calls of tools that the model answers with, as JSON in OpenAI's form.
        reasoning: what the model thought before its answer, which is no part of `text`; None: it showed no thoughts.
        from_cache: the answer is an earlier run's, so that nothing is paid for it; its tokens are those of that run.
    """

    text: str | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    error_type: str | None = None
    error: str | None = None
    attempts: int = 1
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    logprob: float | None = None
    logprob_low: float | None = None
    agreement: float | None = None
    sample_input_tokens: int = 0
    sample_output_tokens: int = 0
    tool_calls: str | None = None
    reasoning: str | None = None
    from_cache: bool = False

    @property
    def answered(self) -> bool:
        """Whether the model answered, usefully or not, so that its tokens are paid."""
        return self.error_type is None or self.error_type in ANSWERED_ALL_THE_SAME


class PartlyAnsweredError(StoppedError):
    """The run stops within a call of `generate`.

    Attributes:
        responses: one for each prompt; None where there is none.
    """

    def __init__(self, message: str, responses: Sequence[Response | None]) -> None:
        super().__init__(message)
        self.responses = list(responses)


class Generator(Protocol):
    """A loaded model, or a client of one. `batchroute.generators.load` makes it; `close` frees its memory.

    Attributes:
        rows_at_a_time: how many rows to pass to `generate`. More fill batches better, fewer report progress sooner.
        units_at_once: how many units of work to generate at the same time, each from a thread of its own.
    """

    rows_at_a_time: int
    units_at_once: int

    @property
    def load_seconds(self) -> float:
        """How long loading took. It grows in a call of `generate` if the model is loaded again there."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """One sentence each for the operator, about how the model generates; `generate` may add some."""
        ...

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        """One response for each prompt, in the order of the prompts.

        If the model cannot answer a prompt (too long, wrong chat structure, an error of the model), its `Response` has
        an `error_type`. Only errors that every prompt would meet are raised.

        Args:
            prompts: any number; the generator forms its own batches.
            seeds: one for each prompt, for sampling; a response depends on its own prompt and seed alone.

        Raises:
            InputError: the key, the endpoint or the model is wrong for every prompt.
            StoppedError: so many rows failed alike that the rest would only cost money, or the account has none left.
                A `PartlyAnsweredError` has the answers that were paid for by then.
        """
        ...

    def close(self) -> None:
        """Free the memory. May be called from another thread: running calls of `generate` end at once."""
        ...


class ColumnGenerator(Generator, Protocol):
    """A generator that can make the responses to many text prompts as columns, without an object for each.

    Attributes:
        column_units_at_once: as `units_at_once`, where no limit of cost or tokens needs the responses one by one.
    """

    column_units_at_once: int

    def answer_columns(self, prompts: pa.ChunkedArray) -> pa.Table | None:
        """What `generate` would say, as columns `text`, `finish_reason`, `input_tokens` and `output_tokens`; and
        `logprob` and `logprob_low`, if the model is asked for them.

        Every row is answered at the first attempt, and nothing else is told of it. None: ask `generate`.

        Args:
            prompts: text, one a row.
        """
        ...


def row_seed(seed: int, position: int, sample: int = 0) -> int:
    """The sampling seed of one row (63 bits); it does not depend on the row's batch, unit or process."""
    digest = hashlib.blake2b(f"{seed}/{position}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def read_once(samples: Sequence[Response]) -> list[Response]:
    """The samples of one prompt that was read once for all of them: only the first has input tokens."""
    return [
        sample if number == 0 else sample._replace(input_tokens=0, cached_tokens=0)
        for number, sample in enumerate(samples)
    ]


def as_messages(prompt: Prompt, system: str | None) -> list[Message]:
    """The prompt as chat messages, with the system message in front if there is one."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [{"role": "system", "content": system}, *messages] if system is not None else messages
