"""Decoding rules that keep a row's response independent of the rows beside it: seeded sampling and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
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
    """Samples one token a row by inverting the cumulative distribution at the row's own uniform number of this step.

    `generate(do_sample=True)` draws for the whole batch from one global stream, so that a row's text would change with
    its neighbours. Here every row has its own stream; all tokens but the chosen one get −∞, and greedy decoding takes
    that one.
    """

    def __init__(self, seeds: Sequence[int], max_new_tokens: int) -> None:
        self._uniforms = np.stack([np.random.default_rng(seed).random(max_new_tokens) for seed in seeds])
        self._step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        uniforms = torch.from_numpy(self._uniforms[:, self._step : self._step + 1]).to(scores.device)
        self._step += 1
        # float64 on CPU and CUDA: a cumulative sum over 262,144 tokens in float32 loses the tail.
        cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
        drawn = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
        drawn = drawn.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)  # type: ignore[return-value]


class StopStrings(StoppingCriteria):
    """Ends a row when its new text contains one of `stops`, and remembers how many tokens it took."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], prompt_width: int, rows: int) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._prompt_width = prompt_width
        # Every token but a part of a character carries at least one character; four parts make the longest one.
        self._tail = max(len(stop.encode()) for stop in stops) + 4
        self.lengths: list[int | None] = [None] * rows

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        new = input_ids[:, self._prompt_width :]
        tails = self._tokenizer.batch_decode(new[:, -self._tail :], skip_special_tokens=True)
        for row, tail in enumerate(tails):
            if self.lengths[row] is None and any(stop in tail for stop in self._stops):
                self.lengths[row] = new.shape[1]
        ended = [length is not None for length in self.lengths]
        return torch.tensor(ended, device=input_ids.device)  # type: ignore[return-value]


def logits_processors(sampling: Sampling, seeds: Sequence[int]) -> LogitsProcessorList:
    """The processors that turn greedy decoding into what `sampling` asks for; none when it asks for greedy decoding."""
    if sampling.greedy:
        return LogitsProcessorList()
    processors = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        processors.append(TopPLogitsWarper(sampling.top_p))
    processors.append(SeededSampling(seeds, sampling.max_new_tokens))
    return processors
