"""What the metrics that run a model share: loading it, batches by length, and memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from batchroute import models
from batchroute.hardware.devices import out_of_memory, precision
from batchroute.quality.base import EMPTY, NO_REFERENCE, Direction, Item, Measurement, MetricSpec

Pair = TypeVar("Pair")
Result = TypeVar("Result")

_NO_LIMIT = 10**9
_DEFAULT_LENGTH = 1024


class LoadedModel:
    """A model and its tokenizer.

    Attributes:
        max_length: tokens that it reads at once.
    """

    def __init__(self, spec: MetricSpec, family: Any, device: torch.device) -> None:
        started = time.perf_counter()
        assert spec.model is not None
        path = models.resolve(spec.model)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        with models.loading(f"the model '{spec.model}' of the metric {spec.name}", path, keys=models.NO_KEYS):
            self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model = family.from_pretrained(
                path, dtype=precision(spec.dtype, device), use_safetensors=True, trust_remote_code=False
            )
            self.model: Any = model.to(device).eval()
        self.device = device
        self.batch_size = spec.batch_size
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        limits = [limit for limit in (positions, self.tokenizer.model_max_length) if limit and limit < _NO_LIMIT]
        self.max_length = int(min(limits, default=_DEFAULT_LENGTH))
        self.pad = next(
            (i for i in (self.tokenizer.pad_token_id, model.config.pad_token_id, self.tokenizer.eos_token_id) if i), 0
        )
        self.load_seconds = time.perf_counter() - started

    @torch.inference_mode()
    def in_batches(
        self, items: Sequence[Pair], length: Callable[[Pair], int], compute: Callable[[list[Pair]], Sequence[Result]]
    ) -> list[Result]:
        """`compute` on batches of similar lengths, the longest first; when memory runs out, on smaller ones."""
        order = sorted(range(len(items)), key=lambda i: length(items[i]), reverse=True)
        found: dict[int, Result] = {}
        start = 0
        while start < len(order):
            batch = order[start : start + self.batch_size]
            try:
                found.update(zip(batch, compute([items[i] for i in batch]), strict=True))
            except Exception as error:
                if len(batch) == 1 or not out_of_memory(error):
                    raise
                self.batch_size = len(batch) // 2
                continue
            start += len(batch)
        return [found[i] for i in range(len(items))]

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids, padded on the right, and their mask: int64, shape [rows, longest], on the device."""
        width = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[self.pad] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return ids.to(self.device), mask.to(self.device)

    def close(self) -> None:
        del self.model
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Prediction:
    """A metric by how likely a model finds one text given the other: what its two kinds share.

    Direction `reference` predicts the reference from the response, `response` the other way round; `both` is their
    mean. An empty response has a quality in direction `reference` alone.
    """

    needs_reference = True

    def __init__(self, loaded: LoadedModel, direction: Direction | None) -> None:
        self._loaded = loaded
        self._direction = direction
        self.load_seconds = loaded.load_seconds

    def measure(self, items: Sequence[Item]) -> list[Measurement]:
        found = [self._unusable(item) for item in items]
        usable = [item for item, bad in zip(items, found, strict=True) if bad is None]
        qualities = iter(self._qualities(usable))
        return [bad or Measurement(next(qualities)) for bad in found]

    def close(self) -> None:
        self._loaded.close()

    def likelihoods(self, texts: Sequence[tuple[str, str, str]]) -> list[float]:
        """Of prompt, given text and target: the mean log-probability of the target's tokens."""
        raise NotImplementedError

    def _unusable(self, item: Item) -> Measurement | None:
        if not item.reference or not item.reference.strip():
            return NO_REFERENCE
        return EMPTY if self._direction != "reference" and not item.response.strip() else None

    def _qualities(self, items: Sequence[Item]) -> list[float]:
        forth = [(item.prompt, item.response, item.reference or "") for item in items]
        back = [(prompt, reference, response) for prompt, response, reference in forth]
        if self._direction == "both":
            return [(a + b) / 2 for a, b in zip(self.likelihoods(forth), self.likelihoods(back), strict=True)]
        return self.likelihoods(forth if self._direction == "reference" else back)


def mean_log_likelihood(logits: torch.Tensor, targets: torch.Tensor, counts: torch.Tensor) -> list[float]:
    """The mean log-probability of each row's target tokens.

    Args:
        logits: shape [rows, length, vocabulary]; position i predicts `targets[:, i]`.
        targets, counts: shape [rows, length]; where `counts` is 0 a target does not count.
    """
    chosen = logits.float().log_softmax(dim=-1).gather(2, targets[:, :, None])[:, :, 0]
    means: list[float] = ((chosen * counts).sum(dim=1) / counts.sum(dim=1)).tolist()
    return means
