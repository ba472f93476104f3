"""The generator of the `echo` backend, which answers with the prompt itself: for dry runs and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

from batchroute.generators.base import Response
from batchroute.generators.settings import PLACEHOLDER, ModelSpec
from batchroute.prompt import Prompt, as_text


class EchoGenerator:
    """The response is the prompt in its template, cut to `max_new_tokens` words. A token is a word."""

    load_seconds = 0.0
    rows_at_a_time = 256
    units_at_once = 1
    notes: tuple[str, ...] = ()

    def __init__(self, spec: ModelSpec) -> None:
        self._template = spec.template
        self._max_words = spec.generation.max_new_tokens
        self._stops = spec.generation.stop

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        return [self._answer(as_text(prompt)) for prompt in prompts]

    def close(self) -> None:
        pass

    def _answer(self, prompt: str) -> Response:
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
        return Response(text, "length" if cut else "stop", input_tokens, output_tokens)
