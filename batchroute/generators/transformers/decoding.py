"""Decoding that keeps a row's response independent of the other rows of its batch: seeded sampling, stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

# Tokens of a vocabulary that are compared at a time; most vocabularies are padded to a multiple of it.
_BLOCK = 64


class SeededSampling(LogitsProcessor):
    """Samples one token for each row, from the row's own random stream.

    `generate(do_sample=True)` draws for the whole batch from one global stream, so a row's text would depend on the
    other rows. This processor draws the token itself and gives −∞ to all others; greedy decoding then takes it.
    """

    def __init__(self, seeds: Sequence[int], max_new_tokens: int) -> None:
        self._uniforms = np.stack([uniforms(seed, max_new_tokens) for seed in seeds])
        self._step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        drawn = draw(scores, torch.from_numpy(self._uniforms[:, self._step, None]).to(scores.device))
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)  # type: ignore[return-value]


def uniforms(seed: int, steps: int) -> NDArray[np.float64]:
    """A row's uniform random numbers, one for each step, of shape [steps]."""
    return np.random.default_rng(seed).random(steps)


def draw(scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Tokens, of shape [rows, draws]: the inverse of the row's cumulative distribution at each uniform number.

    Args:
        scores: logits of shape [rows, vocabulary]; −∞ for tokens that must not be drawn.
        uniforms: of shape [rows, draws].
    """
    # In float64: a cumulative sum over 262,144 tokens in float32 loses the tail.
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    return drawn.clamp(max=scores.shape[-1] - 1)


def likeliest(scores: torch.Tensor) -> torch.Tensor:
    """The first token with the greatest logit of each row, of shape [rows, 1]; `scores` has shape [rows, vocabulary].

    On a CPU the greatest of each block is found first: torch's own argmax takes five times as long.
    """
    rows, tokens = scores.shape
    if scores.device.type != "cpu" or tokens % _BLOCK:
        return scores.argmax(dim=-1, keepdim=True)
    blocks = scores.view(rows, -1, _BLOCK)
    block = blocks.amax(dim=-1).argmax(dim=-1, keepdim=True)
    within = blocks.gather(1, block[..., None].expand(-1, -1, _BLOCK)).argmax(dim=-1)
    return block * _BLOCK + within


def log_probabilities(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The log-probabilities of some tokens of each row, of the shape of `tokens`.

    Args:
        scores: the model's own logits in float32, of shape [rows, vocabulary].
        tokens: of shape [rows, draws].
    """
    # A full log_softmax would write as much again as it reads: this takes 40 % of its time.
    top = scores.amax(dim=-1, keepdim=True)
    chosen = scores.gather(1, tokens) - top
    return chosen - (scores - top).exp_().sum(dim=-1, keepdim=True).log()


class LogProbabilities:
    """The log-probabilities of the tokens that `generate` chooses, read from the scores before other processors.

    `processor` sees the model's own scores of a step, and `criterion` the tokens that were chosen.
    """

    def __init__(self) -> None:
        self._scores: torch.Tensor | None = None
        self._steps: list[torch.Tensor] = []

    def processor(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.FloatTensor:
        self._scores = scores
        return scores

    def criterion(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        assert self._scores is not None
        self._steps.append(log_probabilities(self._scores, input_ids[:, -1:])[:, 0])
        self._scores = None
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]

    def of_rows(self) -> list[list[float]]:
        """One list for each row, an entry for each step. After a row's end they are of its padding."""
        rows: list[list[float]] = torch.stack(self._steps, dim=1).tolist()
        return rows


class Stops:
    """Looks for stop strings in the text that a row has written.

    Attributes:
        tail: the number of last tokens that contain any stop string that the newest token completed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        # A token has at least one byte of text. Four more, because a character may be split into four tokens.
        self.tail = max((len(stop.encode()) for stop in stops), default=0) + 4

    def found(self, written: list[list[int]] | torch.Tensor) -> list[bool]:
        """Whether the text of each row has a stop string, of length [rows].

        Args:
            written: the last `tail` tokens of each row, or more.
        """
        if not self._stops:
            return [False] * len(written)
        texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
        return [any(stop in text for stop in self._stops) for text in texts]


class StopStrings(StoppingCriteria):
    """Ends a row when its new text contains one of `stops`.

    Attributes:
        lengths: the number of new tokens at which each row's text contained a stop string; None: not yet.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stops: Sequence[str],
        prompt_width: int,
        rows: int,
        is_stopped: Callable[[int, list[int]], bool],
    ) -> None:
        """Args:
        is_stopped: whether a stop string in the last tokens of a row, by its number, ends the row.
        """
        self._stops, self._is_stopped = Stops(tokenizer, stops), is_stopped
        self._prompt_width = prompt_width
        self.lengths: list[int | None] = [None] * rows

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        new = input_ids[:, self._prompt_width :]
        for row, stopped in enumerate(self._stops.found(new[:, -self._stops.tail :])):
            if stopped and self.lengths[row] is None and self._is_stopped(row, new[row].tolist()):
                self.lengths[row] = new.shape[1]
        ended = [length is not None for length in self.lengths]
        return torch.tensor(ended, device=input_ids.device)  # type: ignore[return-value]


def logits_processors(sampling: Sampling, seeds: Sequence[int]) -> LogitsProcessorList:
    """The processors that turn greedy decoding into the sampling that the job asks for; none if it asks for greedy."""
    if sampling.greedy:
        return LogitsProcessorList()
    return LogitsProcessorList([*warpers(sampling), SeededSampling(seeds, sampling.max_new_tokens)])


def warpers(sampling: Sampling) -> LogitsProcessorList:
    """The processors that turn logits into the distribution to draw from, row by row."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        processors.append(TopPLogitsWarper(sampling.top_p))
    return processors
