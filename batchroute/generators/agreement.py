"""Agreement: extra sampled answers of each row, and the share of them that agrees with the answer.

A model that is sure of an answer gives it again when it is sampled. Two answers agree by a named rule:

- `text`: they are the same text, whatever the case, the spaces, and the marks around it;
- `number`: the last numbers in them are equal; without a number in both, by `text`;
- `json`: they are the same JSON value, in a code block or not; without JSON in both, by `text`;
- `embedding`: they agree by the cosine of their embeddings, so a sample counts as much as that, and not as 0 or 1.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from batchroute.errors import StoppedError
from batchroute.generators.base import Generator, PartlyAnsweredError, Response
from batchroute.prompt import Prompt, as_text

Rule = Callable[[str, Sequence[str]], list[float]]
"""From an answer and its samples to how far each sample agrees, from 0 to 1."""

_NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_CODE_BLOCK = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_MARKS = " \t\n\r.,;:!?\"'`*“”‘’«»()[]"
_CLOSE = 1e-9


class Sampler(Generator, Protocol):
    """A generator that also gives sampled answers: what a backend needs for `confidence.samples`."""

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]]) -> list[list[Response]]:
        """For each prompt a response for each of its seeds, by `ModelSpec.sampled`.

        `input_tokens` of the responses are what is read beyond the answer's own prompt: of a prompt that is read once
        for all samples, only the first of them has any.
        """
        ...


class AgreeingGenerator:
    """A generator whose responses come with their agreement with extra samples.

    Rows without an answer, and those that end in a call of tools, get no samples. Samples that failed are left out; if
    all did, the agreement is unknown.
    """

    def __init__(self, generator: Sampler, samples: int, rule: Rule, close: Callable[[], None] = lambda: None) -> None:
        """Args:
        samples: of each row.
        close: frees what `rule` holds.
        """
        self._generator, self._samples, self._rule, self._close = generator, samples, rule, close
        self.rows_at_a_time, self.units_at_once = generator.rows_at_a_time, generator.units_at_once

    @property
    def load_seconds(self) -> float:
        return self._generator.load_seconds

    @property
    def notes(self) -> Sequence[str]:
        return self._generator.notes

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        responses = self._generator.generate(prompts, seeds)
        asked = [row for row, response in enumerate(responses) if _comparable(response)]
        drawn = [[_sample_seed(seeds[row], prompts[row], number) for number in range(self._samples)] for row in asked]
        try:
            sampled = self._generator.sample([prompts[row] for row in asked], drawn) if asked else []
        except StoppedError as stop:
            # The answers are paid for, and stay without an agreement.
            raise PartlyAnsweredError(str(stop), responses) from stop
        for row, samples in zip(asked, sampled, strict=True):
            responses[row] = self._with_agreement(responses[row], samples)
        return responses

    def preflight(self, longest: Prompt, shortest: Prompt) -> str | None:
        ask_first = getattr(self._generator, "preflight", None)
        note: str | None = None if ask_first is None else ask_first(longest, shortest)
        return note

    def close(self) -> None:
        self._generator.close()
        self._close()

    def _with_agreement(self, response: Response, samples: Sequence[Response]) -> Response:
        texts = [sample.text or "" for sample in samples if _comparable(sample)]
        paid = [sample for sample in samples if sample.answered]
        return response._replace(
            agreement=float(np.mean(self._rule(response.text or "", texts))) if texts else None,
            sample_input_tokens=sum(sample.input_tokens for sample in paid),
            sample_output_tokens=sum(sample.output_tokens for sample in paid),
        )


def rule_of(name: str) -> Rule:
    """The rule of one of the names `text`, `number` and `json`."""
    same = {"text": same_text, "number": same_number, "json": same_json}[name]
    return lambda answer, samples: [float(same(answer, sample)) for sample in samples]


def same_text(one: str, other: str) -> bool:
    return _plain(one) == _plain(other)


def same_number(one: str, other: str) -> bool:
    first, second = _number(one), _number(other)
    if first is None and second is None:
        return same_text(one, other)
    if first is None or second is None:
        return False
    return abs(first - second) <= _CLOSE * max(abs(first), abs(second))


def same_json(one: str, other: str) -> bool:
    first, second = _json(one), _json(other)
    return same_text(one, other) if first is None and second is None else first == second


def _comparable(response: Response) -> bool:
    return response.error_type is None and response.finish_reason in ("stop", "length")


def _sample_seed(seed: int, prompt: Prompt, number: int) -> int:
    # With the prompt in it: rows of greedy decoding all have the same seed.
    text = as_text(prompt).encode(errors="surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, key=f"{seed}/{number}".encode())
    return int.from_bytes(digest.digest(), "little") >> 1


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_MARKS)


def _number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("−", "-")) if found else None


def _json(text: str) -> str | None:
    """The JSON value of a text in one form for all that are equal; None if it is no JSON."""
    block = _CODE_BLOCK.match(text.strip())
    try:
        value: Any = json.loads(block[1] if block else text, parse_float=_whole)
    except (ValueError, RecursionError):
        return None
    return json.dumps(value, sort_keys=True)


def _whole(number: str) -> float | int:
    """A number; 1.0 is 1."""
    value = float(number)
    return int(value) if value.is_integer() else value
