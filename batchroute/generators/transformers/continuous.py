"""Continuous batching by transformers: when a row ends, the next one takes its place in the next step.

All rows share one paged cache of keys and values, so no row waits for a longer response. Price: the cache takes most of
the GPU's free memory while it runs, and an error of one row ends the loop for all (see `ContinuousBatches.died`).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from math import ceil, isfinite
from typing import TYPE_CHECKING

import torch

from batchroute.errors import BatchrouteError, first_line
from batchroute.generators.base import Response
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.decoding import Stops
from batchroute.generators.transformers.loading import Loaded
from batchroute.generators.transformers.rows import Request, Writer, failed
from batchroute.generators.transformers.static import CPU_ROWS

if TYPE_CHECKING:
    from transformers.generation.configuration_utils import ContinuousBatchingConfig
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
    from transformers.generation.continuous_batching.requests import GenerationOutput

# On a CPU the cache is sized for the waiting rows: by default transformers takes most of the machine's memory.
_CPU_PAGE = 16
_CPU_STEP = 512
_KINDS_OF_LAYERS = {"full_attention", "sliding_attention"}


def why_not(loaded: Loaded, spec: ModelSpec) -> str | None:
    """Why the model cannot generate in continuous batches, as the end of a sentence; None if it can."""
    if loaded.encoder_decoder:
        return "an encoder-decoder generates in static batches"
    if not spec.generation.greedy:
        return "sampling needs static batches, where each row draws from its own seed"
    if len(loaded.devices) > 1:
        return "a model over several GPUs generates in static batches"
    return None if plain_attention(loaded) else "its architecture does not support it"


def plain_attention(loaded: Loaded) -> bool:
    """Whether all layers use transformers' common attention code, which works with a cache of another kind."""
    model = loaded.model
    # Other models bring their own attention code, which works with their own cache alone.
    if not getattr(model, "_supports_attention_backend", False) or getattr(model, "_is_stateful", False):
        return False
    kinds = getattr(loaded.config.get_text_config(), "layer_types", None) or ()
    return set(kinds) <= _KINDS_OF_LAYERS


def pays(loaded: Loaded) -> bool:
    """Whether continuous batches are faster than others: on a GPU with flash attention.

    Without flash attention all rows share one mask over the cached tokens of all rows. Its size grows with the square
    of the number of rows: with hundreds of rows on a GPU it takes the larger part of a step.
    """
    from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

    if loaded.device.type != "cuda" or loaded.model.dtype not in (torch.bfloat16, torch.float16):
        return False
    kernels = is_flash_attn_3_available(kernels_fallback_ok=True) or is_flash_attn_2_available(kernels_fallback_ok=True)
    return bool(kernels and loaded.model._supports_flash_attn)


class ContinuousBatches:
    """Answers requests by transformers' generation loop, which runs in a thread of its own.

    Attributes:
        died: the error that ended the loop for good: of a row, of memory that ran out, of a kernel that could not be
            loaded. None: it works. The caller answers the remaining rows in static batches.
    """

    def __init__(self, loaded: Loaded, writer: Writer, spec: ModelSpec) -> None:
        # It logs every error with a traceback, and requests with their tokens.
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
        self.died: str | None = None
        self._model = loaded.model
        self._device = loaded.device
        self._writer = writer
        self._new = spec.generation.max_new_tokens
        self._rows = None if spec.batch_size == "auto" else spec.batch_size
        self._stops = Stops(writer.tokenizer, writer.stops)
        self._longest: int | None = None
        self._closed = False
        self._generation = copy.deepcopy(writer.generation)
        if self._generation.eos_token_id is None:
            # Unset, the model's own end token would end a row.
            self._generation.eos_token_id = -1

    def answer(self, requests: Sequence[Request]) -> dict[int, Response]:
        """Responses by the requests' indices. Rows without numbers are missing and, if the loop died, all without an
        answer.
        """
        if not requests or self.died is not None:
            return {}
        attention = getattr(self._model.config, "_attn_implementation", None)
        try:
            manager = self._start(max(len(request.tokens) for request in requests))
        except BatchrouteError:
            # The run ends, such as by a signal that came in the model: no error of it.
            raise
        except Exception as error:
            # Of any kind (a missing kernel, too little memory): static batches do not need this loop.
            self._die(error)
            if attention is not None:
                self._model.set_attn_implementation(attention)
            return {}
        finished = False
        responses: dict[int, Response] = {}
        lost: list[int] = []
        try:
            failures = self._collect(manager, requests, responses, lost)
            finished = True
        finally:
            manager.stop(block=True, hard_stop=not finished, keep_for_next_session=True)
        fatal = manager.background_thread_status.fatal_error
        if fatal is not None:
            self._die(fatal)
        elif len(responses) + len(failures) + len(lost) < len(requests):
            self._die(RuntimeError("the generation loop ended early"))
        else:
            responses.update(failures)
            if lost:
                # Its pages would hand what is no number on to the rows of the next call.
                self._free_cache()
        return responses

    def close(self) -> None:
        """Free the cache. A call of `answer` in another thread ends with an exception."""
        self._closed = True
        self._free_cache()

    def _free_cache(self) -> None:
        # A version of transformers without this method may have failed before it made a cache.
        free = getattr(self._model, "destroy_cached_continuous_batching_manager", None)
        if free is not None:
            free()

    def _die(self, error: BaseException) -> None:
        self.died = f"{type(error).__name__}: {first_line(error)}"
        self._free_cache()

    def _start(self, longest: int) -> ContinuousBatchingManager:
        """Start the loop, with a new cache if the longest row does not fit into the last one.

        Args:
            longest: tokens of the longest prompt.
        """
        if self._longest is not None and longest + self._new > self._longest:
            self._free_cache()
        manager: ContinuousBatchingManager = self._model.init_continuous_batching(
            generation_config=self._generation, continuous_batching_config=self._config(longest)
        )
        if self._device.type == "cuda" and not manager.warmed_up:
            manager.warmup()
        manager.start()
        return manager

    def _config(self, longest: int) -> ContinuousBatchingConfig:
        # Log-probabilities in any case: they tell whether the model gave numbers.
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        if self._device.type == "cuda":
            return ContinuousBatchingConfig(max_requests_per_batch=self._rows, return_logprobs=True)
        rows = self._rows or CPU_ROWS
        pages = ceil((longest + self._new) / _CPU_PAGE) + 1
        self._longest = pages * _CPU_PAGE
        return ContinuousBatchingConfig(
            page_size=_CPU_PAGE,
            num_blocks=rows * pages,
            max_batch_tokens=_CPU_STEP,
            max_requests_per_batch=rows,
            return_logprobs=True,
        )

    def _collect(
        self,
        manager: ContinuousBatchingManager,
        requests: Sequence[Request],
        responses: dict[int, Response],
        lost: list[int],
    ) -> dict[int, Response]:
        """Wait for all rows. Answers go into `responses`, and the indices of rows for which the model gave no numbers
        into `lost`; returns the responses of rows that failed.
        """
        ids = manager.add_requests(
            [request.tokens for request in requests], max_new_tokens=self._new, streaming=bool(self._writer.stops)
        )
        waiting: dict[str, Request] = dict(zip(ids, requests, strict=True))
        failures: dict[int, Response] = {}
        while waiting:
            output = manager.get_result(timeout=0.5)
            if self._closed:
                raise RuntimeError("the model was closed while it generated")
            if output is None:
                if not manager.is_running():
                    break
                continue
            request = waiting.get(output.request_id)
            if request is None:
                # The loop goes on for a step or two with a row that a stop string has ended.
                continue
            stopped = self._stopped(request, output)
            if stopped is None and not output.is_finished():
                continue
            del waiting[output.request_id]
            if output.error is not None:
                failures[request.index] = failed(request, RuntimeError(output.error))
                continue
            if not output.is_finished():
                manager.cancel_request(output.request_id)
            if not all(map(isfinite, output.logprobs)):
                # Rows that share a mask read each other's masked numbers, as 0 × NaN: which row was the first to have
                # none is not known here.
                lost.append(request.index)
                continue
            logprobs = output.logprobs if self._writer.logprobs else None
            responses[request.index] = self._writer.response(request, output.generated_tokens, stopped, logprobs)
        return failures

    def _stopped(self, request: Request, output: GenerationOutput) -> int | None:
        """The number of tokens of a row whose newest token completed a stop string; None if it did not."""
        tokens = output.generated_tokens
        if output.error is not None:
            return None
        (stopped,) = self._stops.found([tokens[-self._stops.tail :]])
        return len(tokens) if stopped and self._writer.is_stopped(request, tokens) else None
