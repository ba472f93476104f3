"""Embedding: how near response and reference are in an encoder's space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModel

from batchroute.quality.base import EMPTY, NO_REFERENCE, Item, Measurement, MetricSpec
from batchroute.quality.loaded import LoadedModel


class Embedding:
    """The cosine of the two texts' embeddings, in [−1, 1]: the mean over tokens of the encoder's last layer."""

    needs_reference = True

    def __init__(self, spec: MetricSpec, device: torch.device) -> None:
        self._loaded = LoadedModel(spec, AutoModel, device)
        self.load_seconds = self._loaded.load_seconds

    def measure(self, items: Sequence[Item]) -> list[Measurement]:
        texts = sorted({text for item in items for text in (item.response, item.reference or "") if text.strip()})
        encoded = [self._encode(text) for text in texts]
        vectors = dict(zip(texts, self._loaded.in_batches(encoded, len, self._compute), strict=True))
        return [self._measure(item, vectors) for item in items]

    def close(self) -> None:
        self._loaded.close()

    @staticmethod
    def _measure(item: Item, vectors: dict[str, torch.Tensor]) -> Measurement:
        if not item.reference or not item.reference.strip():
            return NO_REFERENCE
        if not item.response.strip():
            return EMPTY
        return Measurement(float(vectors[item.response] @ vectors[item.reference]))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._loaded.tokenizer(text, truncation=True, max_length=self._loaded.max_length)["input_ids"]
        return ids

    def _compute(self, batch: list[list[int]]) -> list[torch.Tensor]:
        """Unit vectors, shape [hidden] each."""
        ids, mask = self._loaded.padded(batch)
        hidden = self._loaded.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        means = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return list(torch.nn.functional.normalize(means, dim=1).cpu())
