"""BARTScore: how likely a sequence-to-sequence model finds one text given the other.

After "BARTScore: Evaluating Generated Text as Text Generation" (NeurIPS 2021, arXiv 2106.11520), the metric of
"Hybrid LLM". Qualities are mean log-probabilities of a token, below 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForSeq2SeqLM

from batchroute.quality.base import MetricSpec
from batchroute.quality.loaded import LoadedModel, Prediction, mean_log_likelihood

_Pair = tuple[list[int], list[int]]


class BartScore(Prediction):
    """Direction `reference`, the usual one: log p(reference | response), with every token of the reference, its end
    included, counted alike. `response` is the other way round (faithfulness to the reference), `both` their mean.

    Texts are cut to what the model reads. An empty response has a quality in direction `reference` alone.
    """

    def __init__(self, spec: MetricSpec, device: torch.device) -> None:
        super().__init__(LoadedModel(spec, AutoModelForSeq2SeqLM, device), spec.direction)

    def likelihoods(self, texts: Sequence[tuple[str, str, str]]) -> list[float]:
        pairs = [(self._encode(given), self._encode(target)) for _, given, target in texts]
        return self._loaded.in_batches(pairs, lambda pair: len(pair[0]) + len(pair[1]), self._compute)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._loaded.tokenizer(text, truncation=True, max_length=self._loaded.max_length)["input_ids"]
        return ids

    def _compute(self, batch: list[_Pair]) -> list[float]:
        sources, source_mask = self._loaded.padded([source for source, _ in batch])
        targets, target_mask = self._loaded.padded([target for _, target in batch])
        labels = targets.masked_fill(target_mask == 0, -100)
        logits = self._loaded.model(input_ids=sources, attention_mask=source_mask, labels=labels).logits
        return mean_log_likelihood(logits, targets, target_mask)
