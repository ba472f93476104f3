"""Likelihood: as BARTScore, with a causal language model, which most teams have at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM

from batchroute.quality.base import MetricSpec
from batchroute.quality.loaded import LoadedModel, Prediction, mean_log_likelihood

_Pair = tuple[list[int], list[int]]
_BETWEEN = "\n\n"


class Likelihood(Prediction):
    """Mean log-probability of a token of the target when the model has read prompt and given text, blank lines between.

    Direction `reference`, the usual one: log p(reference | prompt, response): a response that holds the reference makes
    it likely. `response`: log p(response | prompt, reference). `both`: their mean. No chat template: the model goes on
    with a text. Where it does not fit, the beginning of what is given is cut; a target longer than half the context is
    cut.
    """

    def __init__(self, spec: MetricSpec, device: torch.device) -> None:
        super().__init__(LoadedModel(spec, AutoModelForCausalLM, device), spec.direction)

    def likelihoods(self, texts: Sequence[tuple[str, str, str]]) -> list[float]:
        pairs = [self._encode(*text) for text in texts]
        return self._loaded.in_batches(pairs, lambda pair: len(pair[0]) + len(pair[1]), self._compute)

    def _encode(self, prompt: str, given: str, target: str) -> _Pair:
        tokenizer, room = self._loaded.tokenizer, self._loaded.max_length
        wanted = tokenizer(target.strip(), add_special_tokens=False)["input_ids"][: room // 2]
        context = tokenizer(f"{prompt}{_BETWEEN}{given}{_BETWEEN}")["input_ids"]
        while context and context[-1] in tokenizer.all_special_ids:
            # The text goes on: no end token belongs between the two.
            context.pop()
        return context[-(room - len(wanted)) :], wanted

    def _compute(self, batch: list[_Pair]) -> list[float]:
        ids, mask = self._loaded.padded([context + target for context, target in batch])
        counts = torch.zeros_like(ids)
        for row, (context, target) in enumerate(batch):
            counts[row, len(context) : len(context) + len(target)] = 1
        logits = self._loaded.model(input_ids=ids, attention_mask=mask).logits
        return mean_log_likelihood(logits[:, :-1], ids[:, 1:], counts[:, 1:])
