"""Decoding rules that keep a row's response independent of the rows beside it: seeded sampling and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from batchroute.generators.settings import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SeededSampling(LogitsProcessor):
    """Samples one token a row by the row's own uniform number of this step.

    `generate(do_sample=True)` draws for the whole batch from one global stream, so that a row's text would change with
    its neighbours. Here every row has its own stream; all tokens but the chosen one get −∞, and greedy decoding takes
    that one.
    """

    def __init__(self, seeds: Sequence[int], max_new_tokens: int) -> None:
        self._uniforms = np.stack([uniforms(seed, max_new_tokens) for seed in seeds])
        self._step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        drawn = draw(scores, torch.from_numpy(self._uniforms[:, self._step]).to(scores.device))
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, drawn[:, None], 0.0)  # type: ignore[return-value]


def uniforms(seed: int, steps: int) -> NDArray[np.float64]:
    """The numbers that a row with this seed draws its tokens by, one a step."""
    return np.random.default_rng(seed).random(steps)


def draw(scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """One token a row, of shape [rows], by inverting the cumulative distribution at the row's uniform number.

    Args:
        scores: logits of shape [rows, vocabulary]; −∞ for tokens that are not to be drawn.
        uniforms: of shape [rows].
    """
    # float64 on CPU and CUDA: a cumulative sum over 262,144 tokens in float32 loses the tail.
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    return drawn[:, 0].clamp(max=scores.shape[-1] - 1)


class Stops:
    """Looks for stop strings in the text that a row has written so far."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        # Every token but a part of a character carries at least one character; four parts make the longest one.
        self.tail = max((len(stop.encode()) for stop in stops), default=0) + 4

    def found(self, written: list[list[int]] | torch.Tensor) -> list[bool]:
        """Whether the text of each row has one of them.

        Args:
            written: the last tokens of each row: with `tail` of them no stop string goes unseen that the last one
                completed.
        """
        if not self._stops:
            return [False] * len(written)
        texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
        return [any(stop in text for stop in self._stops) for text in texts]


class StopStrings(StoppingCriteria):
    """Ends a row when its new text contains one of `stops`, and remembers how many tokens it took."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], prompt_width: int, rows: int) -> None:
        self._stops = Stops(tokenizer, stops)
        self._prompt_width = prompt_width
        self.lengths: list[int | None] = [None] * rows

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        new = input_ids[:, self._prompt_width :]
        for row, found in enumerate(self._stops.found(new[:, -self._stops.tail :])):
            if found and self.lengths[row] is None:
                self.lengths[row] = new.shape[1]
        ended = [length is not None for length in self.lengths]
        return torch.tensor(ended, device=input_ids.device)  # type: ignore[return-value]


def logits_processors(sampling: Sampling, seeds: Sequence[int]) -> LogitsProcessorList:
    """The processors that turn greedy decoding into what `sampling` asks for; none when it asks for greedy decoding."""
    if sampling.greedy:
        return LogitsProcessorList()
    return LogitsProcessorList([*warpers(sampling), SeededSampling(seeds, sampling.max_new_tokens)])


def warpers(sampling: Sampling) -> LogitsProcessorList:
    """The processors that make logits the distribution which `sampling` draws from; each row on its own."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        processors.append(TopPLogitsWarper(sampling.top_p))
    return processors
