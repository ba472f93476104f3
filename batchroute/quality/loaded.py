"""What the metrics that run a model share: loading it, batches by length, and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from batchroute import models
from batchroute.hardware.devices import free_memory, out_of_memory, precision
from batchroute.models.checkpoint import check_generator, check_loaded
from batchroute.quality.base import EMPTY, NO_REFERENCE, Direction, Item, Measurement, MetricSpec

if TYPE_CHECKING:
    import torch

Input = TypeVar("Input")
Result = TypeVar("Result")

_NO_LIMIT = 10**9
_DEFAULT_LENGTH = 1024


class ScoringModel:
    """A model that measures, and its tokenizer. Calling it is a forward pass.

    Attributes:
        max_length: tokens that it reads at once.
    """

    def __init__(self, spec: MetricSpec, auto_class: Any, device: torch.device) -> None:
        """Args:
            auto_class: the class of transformers that loads the model.

        Raises:
            InputError: the model is not there, cannot be loaded, is of another kind, or lacks weights.
        """
        from transformers import AutoConfig, AutoTokenizer

        started = time.perf_counter()
        assert spec.model is not None
        path = models.resolve(spec.model)
        what = f"the model '{spec.model}' of the metric {spec.name}"
        encodes = auto_class.__name__ == "AutoModel"
        with models.quiet_transformers(), models.loading(what, path, keys=models.NO_KEYS):
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            if not encodes:
                check_generator(config, what)
            self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model, info = auto_class.from_pretrained(
                path,
                dtype=precision(spec.dtype, device),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
            check_loaded(what, model, info, parts=encodes)
            self._model: Any = model.to(device).eval()
        self._device = device
        self._batch_size = spec.batch_size
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        limits = [limit for limit in (positions, self.tokenizer.model_max_length) if limit and limit < _NO_LIMIT]
        self.max_length = int(min(limits, default=_DEFAULT_LENGTH))
        self._pad = next(
            (i for i in (self.tokenizer.pad_token_id, model.config.pad_token_id, self.tokenizer.eos_token_id) if i), 0
        )
        self.load_seconds = time.perf_counter() - started

    def __call__(self, **inputs: torch.Tensor) -> Any:
        return self._model(**inputs)

    def encode(self, text: str) -> list[int]:
        """Token ids with special tokens, cut to `max_length`."""
        ids: list[int] = self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]
        return ids

    def in_batches(
        self, items: Sequence[Input], length: Callable[[Input], int], compute: Callable[[list[Input]], Sequence[Result]]
    ) -> list[Result]:
        """The results of `compute` in the order of the items. A batch holds items of similar length; the longest come
        first. When memory runs out, the batch size is halved, for good."""
        import torch

        order = sorted(range(len(items)), key=lambda i: length(items[i]), reverse=True)
        results: dict[int, Result] = {}
        start = 0
        while start < len(order):
            batch = order[start : start + self._batch_size]
            try:
                with torch.inference_mode():
                    results.update(zip(batch, compute([items[i] for i in batch]), strict=True))
            except Exception as error:
                if len(batch) == 1 or not out_of_memory(error):
                    raise
                self._batch_size = len(batch) // 2
                continue
            start += len(batch)
        return [results[i] for i in range(len(items))]

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids, padded on the right, and their mask: int64, shape [rows, longest], on the device."""
        import torch

        width = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[self._pad] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return ids.to(self._device), mask.to(self._device)

    def close(self) -> None:
        del self._model
        free_memory(self._device)


class Prediction:
    """A metric by how likely a model finds one text given the other: what BARTScore and likelihood share.

    Direction `reference` predicts the reference from the response, `response` the response from the reference; `both`
    is the mean of the two. An empty response has a quality in direction `reference` alone.
    """

    def __init__(self, model: ScoringModel, direction: Direction | None) -> None:
        self._model = model
        self._direction = direction
        self.load_seconds = model.load_seconds

    def measure(self, items: Sequence[Item]) -> list[Measurement]:
        reasons = [self._unusable(item) for item in items]
        usable = [item for item, reason in zip(items, reasons, strict=True) if reason is None]
        qualities = iter(self._qualities(usable))
        return [reason or Measurement(next(qualities)) for reason in reasons]

    def close(self) -> None:
        self._model.close()

    def likelihoods(self, texts: Sequence[tuple[str, str, str]]) -> list[float]:
        """The mean log-probability of the target's tokens, for each (prompt, given text, target)."""
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
        targets: shape [rows, length], token ids.
        counts: shape [rows, length]; 1 where a target counts, else 0.
    """
    chosen = logits.float().log_softmax(dim=-1).gather(2, targets[:, :, None])[:, :, 0]
    means: list[float] = ((chosen * counts).sum(dim=1) / counts.sum(dim=1)).tolist()
    return means
