"""The generator of the `echo` backend, which answers with the prompt itself: for dry runs and benchmarks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from batchroute.generators.base import Response
from batchroute.generators.settings import PLACEHOLDER, ModelSpec
from batchroute.prompt import Prompt, as_text

_LEAST = -4.0


class EchoGenerator:
    """The response is the prompt in its template, cut to `max_new_tokens` words. A token is a word.

    Its signals are made up from a hash of the prompt (and of the seed, if the model samples), so that they are the same
    in each run and say nothing of the answer. All of them rise with one another.
    """

    load_seconds = 0.0
    rows_at_a_time = 256
    units_at_once = 1
    notes: tuple[str, ...] = ()

    def __init__(self, spec: ModelSpec) -> None:
        self._template = spec.template
        self._max_words = spec.generation.max_new_tokens
        self._stops = spec.generation.stop
        self._sampled = not spec.generation.greedy
        self._logprobs = spec.logprobs

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        texts = map(as_text, prompts)
        if not self._logprobs:
            return [self._answer(text) for text in texts]
        return [
            self._answer(text, _share(text, seed if self._sampled else None))
            for text, seed in zip(texts, seeds, strict=True)
        ]

    def answer_columns(self, prompts: pa.ChunkedArray) -> pa.Table | None:
        """As of `ColumnGenerator`; None where an answer is not its prompt, or is sampled; a subclass may answer
        otherwise.
        """
        if type(self) is not EchoGenerator or self._template is not None or self._stops or self._sampled:
            return None
        # The kernels of pyarrow that split text are slower, or know other white space.
        texts = prompts.to_pylist()
        words = np.fromiter((len(text.split()) for text in texts), np.int32, len(texts))
        if words.max(initial=0) > self._max_words:
            return None
        ends = pa.repeat(pa.scalar("stop"), len(prompts))
        columns = {"text": prompts, "finish_reason": ends, "input_tokens": words, "output_tokens": words}
        if self._logprobs:
            logprob = _LEAST * (1 - np.fromiter((_share(text, None) for text in texts), np.float64, len(texts)))
            for name, values in (("logprob", logprob), ("logprob_low", 2 * logprob)):
                columns[name] = pa.array(values, mask=words == 0)
        return pa.table(columns)

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]]) -> list[list[Response]]:
        """The answer, or the answer read backwards: the more often the answer, the higher its other signals are."""
        return [
            [self._sample(as_text(prompt), seed) for seed in of_prompt]
            for prompt, of_prompt in zip(prompts, seeds, strict=True)
        ]

    def close(self) -> None:
        pass

    def _answer(self, prompt: str, share: float | None = None) -> Response:
        """Args:
        share: makes the signals, unless the answer is empty; None: there are none.
        """
        text = prompt if self._template is None else self._template.replace(PLACEHOLDER, prompt)
        words = text.split()
        input_tokens = len(words)
        cut = input_tokens > self._max_words
        if cut:
            text = " ".join(words[: self._max_words])
        for stop in self._stops:
            before, separator, _ = text.partition(stop)
            if separator:
                text, cut = before, False
        output_tokens = min(input_tokens, self._max_words) if not self._stops else len(text.split())
        end: Literal["length", "stop"] = "length" if cut else "stop"
        if share is None or not output_tokens:
            return Response(text, end, input_tokens, output_tokens)
        logprob = _LEAST * (1 - share)
        return Response(text, end, input_tokens, output_tokens, logprob=logprob, logprob_low=2 * logprob)

    def _sample(self, prompt: str, seed: int) -> Response:
        answer = self._answer(prompt)._replace(input_tokens=0)
        if _share(prompt, seed) <= _share(prompt, None):
            return answer
        return answer._replace(text=(answer.text or "")[::-1])


def _share(text: str, seed: int | None) -> float:
    """A number from 0 to 1, evenly spread over texts."""
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8, salt=str(seed or "").encode()[:16])
    return int.from_bytes(digest.digest(), "little") / float(1 << 64)
