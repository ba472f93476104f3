"""Likelihood: as BARTScore, by a causal language model, the kind of model that most teams have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from batchroute.quality.base import MetricSpec
from batchroute.quality.loaded import Prediction, ScoringModel, mean_log_likelihood
from batchroute.quality.metric import MetricRecord

if TYPE_CHECKING:
    import torch

_Pair = tuple[list[int], list[int]]
_BETWEEN = "\n\n"


class Likelihood(Prediction):
    """The mean log-probability of a target token after the prompt and the given text, with blank lines between them.

    Direction `reference`, the default: log p(reference | prompt, response); a response that contains the reference
    makes it likely. `response`: log p(response | prompt, reference). `both`: their mean. There is no chat template: the
    model continues a text. A target is cut to half the context; prompt and given text lose their beginning if they do
    not fit.
    """

    def likelihoods(self, texts: Sequence[tuple[str, str, str]]) -> list[float]:
        pairs = [self._encode(*text) for text in texts]
        return self._model.in_batches(pairs, lambda pair: len(pair[0]) + len(pair[1]), self._compute)

    def _encode(self, prompt: str, given: str, target: str) -> _Pair:
        tokenizer, room = self._model.tokenizer, self._model.max_length
        wanted = tokenizer(target.strip(), add_special_tokens=False)["input_ids"][: room // 2]
        context = tokenizer(f"{prompt}{_BETWEEN}{given}{_BETWEEN}")["input_ids"]
        while context and context[-1] in tokenizer.all_special_ids:
            # The target continues the text: no end token belongs between the two.
            context.pop()
        return context[-(room - len(wanted)) :], wanted

    def _compute(self, batch: list[_Pair]) -> list[float]:
        ids, mask = self._model.padded([context + target for context, target in batch])
        counts = ids.new_zeros(ids.shape)
        for row, (context, target) in enumerate(batch):
            counts[row, len(context) : len(context) + len(target)] = 1
        logits = self._model(input_ids=ids, attention_mask=mask).logits
        return mean_log_likelihood(logits[:, :-1], ids[:, 1:], counts[:, 1:])


def _load(spec: MetricSpec, device: Callable[[], torch.device]) -> Likelihood:
    from transformers import AutoModelForCausalLM

    return Likelihood(ScoringModel(spec, AutoModelForCausalLM, device()), spec.direction)


METRICS = (
    MetricRecord(
        name="likelihood", load=_load, settings=frozenset({"model", "direction"}), defaults={"direction": "reference"}
    ),
)
