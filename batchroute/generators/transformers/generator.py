"""The `transformers` backend: decoder and encoder-decoder models from a directory, a hub id or the embedded ones."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence

import torch

from batchroute.errors import InputError
from batchroute.generators.base import Prompt, Response
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.continuous import ContinuousBatches, pays, why_not
from batchroute.generators.transformers.loading import Loaded, load
from batchroute.generators.transformers.refill import RefilledBatches, can_refill
from batchroute.generators.transformers.rows import Reader, Request, Writer
from batchroute.generators.transformers.static import CPU_ROWS, StaticBatches

# Enough to keep a GPU full between two chunks, few enough to show signs of life.
_MANY_ROWS = 1024
# The last rows of each call run with ever fewer neighbours: more at a time make that rarer, and signs of life too.
_CPU_ROWS_TO_REFILL = 256


class TransformersGenerator:
    """A Hugging Face model that generates on the CPU, a GPU or several: in the batches that suit it best.

    Attributes:
        notes: what the operator should know of how this model generates, one sentence each; they may come at any time.
    """

    units_at_once = 1

    def __init__(self, spec: ModelSpec, device: torch.device, gpus: Sequence[int] | None = None) -> None:
        """Load the model that `spec` names.

        Args:
            gpus: those that it may be spread over; all that are visible unless set.

        Raises:
            InputError: it is not there, cannot be loaded, is not safe to load, or cannot do what `spec` asks for.
        """
        started = time.perf_counter()
        self.notes: list[str] = []
        loaded = load(spec, device, gpus)
        if loaded.context is not None and spec.generation.max_new_tokens >= loaded.context:
            raise InputError(
                f"generation.max_new_tokens is {spec.generation.max_new_tokens:,}, but the model '{spec.model}' has a "
                f"context of {loaded.context:,} tokens for prompt and response"
            )
        self._name = spec.model
        self._model = loaded.model
        self._device = loaded.device
        self._reader = Reader(spec, loaded)
        writer = Writer(loaded, spec.generation)
        self._static = StaticBatches(loaded, writer, spec)
        self._continuous = ContinuousBatches(loaded, writer, spec) if _continuous(loaded, spec) else None
        refill = self._continuous is None and spec.batching == "auto" and can_refill(loaded)
        self._refilled = RefilledBatches(loaded, writer, spec) if refill else None
        self.rows_at_a_time = _rows_at_a_time(loaded, spec, self._continuous is not None, refill)
        self.load_seconds = time.perf_counter() - started

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        responses: dict[int, Response] = {}
        requests: list[Request] = []
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            request = self._reader.request(index, prompt, seed)
            if isinstance(request, Response):
                responses[index] = request
            else:
                requests.append(request)
        for batches in (self._continuous, self._refilled, self._static):
            if batches is not None and requests:
                responses.update(batches.answer(requests))
                requests = [request for request in requests if request.index not in responses]
                self._fall_back()
        return [responses[index] for index in range(len(prompts))]

    def close(self) -> None:
        if self._continuous is not None:
            self._continuous.close()
        del self._model, self._static, self._continuous, self._refilled
        _free_memory(self._device)

    def _fall_back(self) -> None:
        """Go on in static batches once others have died, and say so once."""
        for kind, batches in (("continuous", self._continuous), ("refilled", self._refilled)):
            if batches is not None and batches.died is not None:
                self.notes.append(
                    f"the model '{self._name}' goes on in static batches: {kind} ones ended with {batches.died}"
                )
                self._continuous = self._refilled = None
                # Their cache may have most of the memory that static batches need.
                _free_memory(self._device)


def _continuous(loaded: Loaded, spec: ModelSpec) -> bool:
    """Whether to generate in continuous batches.

    Raises:
        InputError: they are asked for, and this model or this sampling cannot have them.
    """
    reason = why_not(loaded, spec)
    if spec.batching == "continuous" and reason is not None:
        raise InputError(f"batching is continuous for the model '{spec.model}', but {reason}: leave it out")
    return spec.batching == "continuous" or (spec.batching == "auto" and reason is None and pays(loaded))


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _rows_at_a_time(loaded: Loaded, spec: ModelSpec, continuous: bool, refill: bool = False) -> int:
    if loaded.device.type == "cuda" and (continuous or refill):
        return _MANY_ROWS
    if refill:
        return _CPU_ROWS_TO_REFILL
    if spec.batch_size != "auto" and not continuous:
        return max(64, 4 * spec.batch_size)
    return _MANY_ROWS if continuous or loaded.device.type == "cuda" else 4 * CPU_ROWS
