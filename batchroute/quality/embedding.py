"""Embedding: how close response and reference are in an encoder's space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from batchroute.models.pooling import mean_of_tokens
from batchroute.quality.base import EMPTY, NO_REFERENCE, Item, Measurement, MetricSpec
from batchroute.quality.loaded import ScoringModel
from batchroute.quality.metric import MetricRecord

if TYPE_CHECKING:
    import torch


class Embedding:
    """The cosine of the two texts' embeddings, in [−1, 1]. An embedding is the mean over tokens of the last layer."""

    def __init__(self, model: ScoringModel) -> None:
        self._model = model
        self.load_seconds = model.load_seconds

    def measure(self, items: Sequence[Item]) -> list[Measurement]:
        texts = sorted({text for item in items for text in (item.response, item.reference or "") if text.strip()})
        encoded = [self._model.encode(text) for text in texts]
        vectors = dict(zip(texts, self._model.in_batches(encoded, len, self._compute), strict=True))
        return [self._measure(item, vectors) for item in items]

    def close(self) -> None:
        self._model.close()

    @staticmethod
    def _measure(item: Item, vectors: dict[str, torch.Tensor]) -> Measurement:
        if not item.reference or not item.reference.strip():
            return NO_REFERENCE
        if not item.response.strip():
            return EMPTY
        return Measurement(float(vectors[item.response] @ vectors[item.reference]))

    def _compute(self, batch: list[list[int]]) -> list[torch.Tensor]:
        """Unit vectors, shape [hidden] each."""
        from torch.nn.functional import normalize

        ids, mask = self._model.padded(batch)
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        return list(normalize(mean_of_tokens(hidden, mask), dim=1).cpu())


def _load(spec: MetricSpec, device: Callable[[], torch.device]) -> Embedding:
    from transformers import AutoModel

    return Embedding(ScoringModel(spec, AutoModel, device()))


METRICS = (MetricRecord(name="embedding", load=_load, settings=frozenset({"model"})),)
