"""The generator of the `echo` backend, which answers with the prompt itself: for dry runs and benchmarks."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchroute.generators.base import Response
from batchroute.generators.settings import PLACEHOLDER, ModelSpec
from batchroute.prompt import Prompt, as_text

_LEAST = -4.0
_CHECKSUMS = float(1 << 32)


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
        # Where an answer is its prompt; a subclass may answer otherwise.
        self._by_columns = type(self) is EchoGenerator and self._template is None and not (self._stops or self._sampled)
        # One unit is written and synced while another is answered.
        self.column_units_at_once = 2 if self._by_columns else 1

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        texts = map(as_text, prompts)
        if not self._logprobs:
            return [self._answer(text) for text in texts]
        return [
            self._answer(text, _share(text, seed if self._sampled else None))
            for text, seed in zip(texts, seeds, strict=True)
        ]

    def answer_columns(self, prompts: pa.ChunkedArray) -> pa.Table | None:
        """As of `ColumnGenerator`; None where an answer is not its prompt, or is sampled."""
        if not self._by_columns:
            return None
        chunks = [chunk.cast(pa.large_string()) for chunk in prompts.chunks]
        words = np.concatenate([np.empty(0, np.int32), *(_words(chunk) for chunk in chunks)])
        if words.max(initial=0) > self._max_words:
            return None
        ends = pa.repeat(pa.scalar("stop"), len(prompts))
        columns = {"text": prompts, "finish_reason": ends, "input_tokens": words, "output_tokens": words}
        if self._logprobs:
            checksums = np.concatenate([np.empty(0), *(_checksums(chunk) for chunk in chunks)])
            logprob = _LEAST * (1 - checksums / _CHECKSUMS)
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
    """A number from 0 to 1, evenly spread over texts and seeds."""
    encoded = text.encode(errors="surrogatepass")
    if seed is None:
        return zlib.crc32(encoded) / _CHECKSUMS
    # Checksums of one text with different beginnings differ by a constant, so that they would not do.
    digest = hashlib.blake2b(encoded, digest_size=8, salt=str(seed or "").encode()[:16])
    return int.from_bytes(digest.digest(), "little") / float(1 << 64)


def _buffers(texts: pa.LargeStringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Where each text begins, and the last one ends, in the bytes of all."""
    if not len(texts):
        return np.zeros(1, np.int64), np.empty(0, np.uint8)
    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, np.int64, len(texts) + 1, 8 * texts.offset)
    return places - places[0], np.frombuffer(data or b"", np.uint8)[places[0] : places[-1]]


def _checksums(texts: pa.LargeStringArray) -> NDArray[np.float64]:
    places, data = _buffers(texts)
    whole, ends = data.tobytes(), places.tolist()
    return np.array([zlib.crc32(whole[start:stop]) for start, stop in itertools.pairwise(ends)], np.float64)


def _words(texts: pa.LargeStringArray) -> NDArray[np.int32]:
    """The number of words of each text, as Python's `split` counts them; pyarrow's kernels know other white space.

    Over the bytes of all texts at once, which leaves Python to other threads, and takes a tenth of the time.
    """
    places, data = _buffers(texts)
    words, filled = np.zeros(len(texts), np.int32), places[:-1] < places[1:]
    if not len(data):
        return words
    # Space, \t to \r and \x1c to \x1f; a difference below zero wraps around. In place: new pages take longer than sums.
    space, mask, least = data == 32, np.empty(len(data), np.bool_), np.empty(len(data), np.uint8)
    for first, number in ((9, 5), (28, 4)):
        np.less(np.subtract(data, np.uint8(first), out=least), number, out=mask)
        space |= mask
    begins, firsts = np.logical_not(space, out=mask), places[:-1][filled]
    within = begins[firsts]
    begins[1:] &= space[:-1]
    begins[firsts] = within
    words[filled] = np.add.reduceat(begins, firsts, dtype=np.int32)
    # Beyond ASCII there are other spaces, of several bytes.
    if data.max() > 127:
        wide = np.flatnonzero(data > 127)
        rows = np.unique(np.searchsorted(places, wide, side="right") - 1)
        words[rows] = [len(text.split()) for text in texts.take(pa.array(rows)).to_pylist()]
    return words
