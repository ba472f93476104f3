"""BARTScore: how likely one text is given the other, by a sequence-to-sequence model.

After "BARTScore: Evaluating Generated Text as Text Generation" (NeurIPS 2021, arXiv 2106.11520), the metric of
"Hybrid LLM". A quality is the mean log-probability of a token, below 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from batchroute.quality.base import MetricSpec
from batchroute.quality.loaded import Prediction, ScoringModel, mean_log_likelihood
from batchroute.quality.metric import MetricRecord

if TYPE_CHECKING:
    import torch

_Pair = tuple[list[int], list[int]]


class BartScore(Prediction):
    """Direction `reference`, the default: log p(reference | response), the mean over the reference's tokens and its end
    token. `response`: log p(response | reference), how faithful the response is. `both`: their mean.

    Texts are cut to the length that the model reads.
    """

    def likelihoods(self, texts: Sequence[tuple[str, str, str]]) -> list[float]:
        pairs = [(self._model.encode(given), self._model.encode(target)) for _, given, target in texts]
        return self._model.in_batches(pairs, lambda pair: len(pair[0]) + len(pair[1]), self._compute)

    def _compute(self, batch: list[_Pair]) -> list[float]:
        sources, source_mask = self._model.padded([source for source, _ in batch])
        targets, target_mask = self._model.padded([target for _, target in batch])
        labels = targets.masked_fill(target_mask == 0, -100)
        logits = self._model(input_ids=sources, attention_mask=source_mask, labels=labels).logits
        return mean_log_likelihood(logits, targets, target_mask)


def _load(spec: MetricSpec, device: Callable[[], torch.device]) -> BartScore:
    from transformers import AutoModelForSeq2SeqLM

    return BartScore(ScoringModel(spec, AutoModelForSeq2SeqLM, device()), spec.direction)


METRICS = (
    MetricRecord(
        name="bartscore",
        load=_load,
        settings=frozenset({"model", "direction"}),
        defaults={"model": "facebook/bart-large-cnn", "direction": "reference"},
    ),
)
