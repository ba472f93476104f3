"""BARTScore: how likely a sequence-to-sequence model finds one text given the other.

After "BARTScore: Evaluating Generated Text as Text Generation" (NeurIPS 2021, arXiv 2106.11520), the metric of
"Hybrid LLM". Qualities are mean log-probabilities of a token, below 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForSeq2SeqLM

from batchroute.quality.base import EMPTY, NO_REFERENCE, Item, Measurement, MetricSpec
from batchroute.quality.models import LoadedModel, mean_log_likelihood

_Pair = tuple[list[int], list[int]]


class BartScore:
    """Direction `reference`, the usual one: log p(reference | response), with every token of the reference, its end
    included, counted alike. `response` is the other way round (faithfulness to the reference), `both` their mean.

    Texts are cut to what the model reads. An empty response has a quality in direction `reference` alone.
    """

    needs_reference = True

    def __init__(self, spec: MetricSpec, device: torch.device) -> None:
        self._loaded = LoadedModel(spec, AutoModelForSeq2SeqLM, device)
        self._direction = spec.direction
        self.load_seconds = self._loaded.load_seconds

    def measure(self, items: Sequence[Item]) -> list[Measurement]:
        found = [self._unusable(item) for item in items]
        usable = [item for item, bad in zip(items, found, strict=True) if bad is None]
        qualities = iter(self._qualities(usable))
        return [bad or Measurement(next(qualities)) for bad in found]

    def close(self) -> None:
        self._loaded.close()

    def _unusable(self, item: Item) -> Measurement | None:
        if not item.reference:
            return NO_REFERENCE
        return EMPTY if self._direction != "reference" and not item.response.strip() else None

    def _qualities(self, items: Sequence[Item]) -> list[float]:
        forth = [(item.response, item.reference or "") for item in items]
        back = [(reference, response) for response, reference in forth]
        if self._direction == "both":
            return [(a + b) / 2 for a, b in zip(self._likelihoods(forth), self._likelihoods(back), strict=True)]
        return self._likelihoods(forth if self._direction == "reference" else back)

    def _likelihoods(self, texts: Sequence[tuple[str, str]]) -> list[float]:
        """log p(second | first) of each pair, by token."""
        if not texts:
            return []
        sources, targets = ([self._encode(text) for text in side] for side in zip(*texts, strict=True))
        pairs = list(zip(sources, targets, strict=True))
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
