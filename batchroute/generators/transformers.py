"""The `transformers` backend: decoder and encoder-decoder models from a directory, a hub id or the embedded ones."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    StoppingCriteriaList,
)
from transformers.utils import logging as transformers_logging

from batchroute import models
from batchroute.devices import out_of_memory, precision
from batchroute.errors import InputError
from batchroute.generators.base import Prompt, Response
from batchroute.generators.decoding import StopStrings, logits_processors
from batchroute.generators.prompting import ChatError, Renderer
from batchroute.generators.settings import ModelSpec


@dataclass(frozen=True, slots=True)
class _Request:
    index: int
    tokens: list[int]
    seed: int


class TransformersGenerator:
    """A Hugging Face model that generates in static batches, sorted by prompt length so that little is padding."""

    units_at_once = 1

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        started = time.perf_counter()
        path = models.resolve(spec.model)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            config = AutoConfig.from_pretrained(path)
            self._encoder_decoder = bool(config.is_encoder_decoder)
            family = AutoModelForSeq2SeqLM if self._encoder_decoder else AutoModelForCausalLM
            self._tokenizer = AutoTokenizer.from_pretrained(path)
            model = family.from_pretrained(path, dtype=precision(spec.dtype, device))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise InputError(f"cannot load the model '{spec.model}': {models.first_line(error)}") from error
        self._device = device
        self._model: Any = model.to(device).eval()  # type: ignore[arg-type]
        self._sampling = spec.generation
        self._batch_size = 16 if spec.batch_size == "auto" else spec.batch_size
        self.rows_at_a_time = max(64, 4 * self._batch_size)
        self._renderer = Renderer(spec, self._tokenizer)
        self._context = getattr(config.get_text_config(), "max_position_embeddings", None)
        if self._context is not None and self._sampling.max_new_tokens >= self._context:
            raise InputError(
                f"generation.max_new_tokens is {self._sampling.max_new_tokens:,}, but the model '{spec.model}' has a "
                f"context of {self._context:,} tokens for prompt and response"
            )
        self._prepare_padding()
        self.load_seconds = time.perf_counter() - started

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        responses: dict[int, Response] = {}
        requests = []
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            request = self._request(index, prompt, seed)
            if isinstance(request, Response):
                responses[index] = request
            else:
                requests.append(request)
        # The longest first: a batch that does not fit in memory shows itself at once.
        requests.sort(key=lambda request: len(request.tokens), reverse=True)
        start = 0
        while start < len(requests):
            batch = requests[start : start + self._batch_size]
            answered = self._answer(batch)
            responses.update(answered)
            start += len(answered)
        return [responses[index] for index in range(len(prompts))]

    def close(self) -> None:
        del self._model
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _prepare_padding(self) -> None:
        tokenizer, defaults = self._tokenizer, self._model.generation_config
        tokenizer.padding_side = "right" if self._encoder_decoder else "left"
        eos = defaults.eos_token_id if defaults.eos_token_id is not None else tokenizer.eos_token_id
        self._eos: list[int] = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        # A stop that is a special token is not in the decoded text, where stop strings are looked for.
        self._eos += [
            tokenizer.get_vocab()[stop] for stop in self._sampling.stop if stop in tokenizer.all_special_tokens
        ]
        pad = next((i for i in (tokenizer.pad_token_id, defaults.pad_token_id, *self._eos) if i is not None), 0)
        tokenizer.pad_token_id = pad
        # A fresh configuration: the model's own may hold sampling defaults or penalties that the job did not ask for.
        self._generation = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self._sampling.max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=self._eos or None,
            pad_token_id=pad,
            bos_token_id=defaults.bos_token_id,
            decoder_start_token_id=defaults.decoder_start_token_id,
            forced_bos_token_id=defaults.forced_bos_token_id,
        )
        # `generate` fills in from the model's own whatever is not set here.
        self._model.generation_config = self._generation

    def _request(self, index: int, prompt: Prompt, seed: int) -> _Request | Response:
        try:
            text = self._renderer.render(prompt)
        except ChatError as error:
            return Response(error_type="bad_chat", error=f"the chat template refused it: {models.first_line(error)}")
        tokens: list[int] = self._tokenizer(text, add_special_tokens=not self._renderer.chat)["input_ids"]
        if not tokens:
            return Response(error_type="empty_prompt", error="the prompt has no tokens")
        new = 0 if self._encoder_decoder else self._sampling.max_new_tokens
        if self._context is not None and len(tokens) + new > self._context:
            needed = f"{len(tokens):,} prompt tokens" + (f" + {new:,} new ones" if new else "")
            return Response(
                input_tokens=len(tokens),
                error_type="too_long",
                error=f"{needed} do not fit the model's context of {self._context:,}",
            )
        return _Request(index, tokens, seed)

    def _answer(self, batch: list[_Request]) -> dict[int, Response]:
        """Responses to all of `batch`, or to none of it when memory ran out and the batch size was halved."""
        try:
            return self._decode(batch)
        except Exception as error:
            if len(batch) == 1:
                return {batch[0].index: _failed(batch[0], error)}
            if out_of_memory(error):
                self._batch_size = len(batch) // 2
                return {}
        # One row's error must not take its neighbours with it.
        return {request.index: self._answer([request])[request.index] for request in batch}

    @torch.inference_mode()
    def _decode(self, batch: list[_Request]) -> dict[int, Response]:
        padded = self._tokenizer.pad({"input_ids": [request.tokens for request in batch]}, return_tensors="pt")
        padded = padded.to(self._device)
        width = 1 if self._encoder_decoder else padded["input_ids"].shape[1]
        stops = None
        if self._sampling.stop:
            stops = StopStrings(self._tokenizer, self._sampling.stop, width, len(batch))
        sequences = self._model.generate(
            input_ids=padded["input_ids"],
            attention_mask=padded["attention_mask"],
            generation_config=self._generation,
            logits_processor=logits_processors(self._sampling, [request.seed for request in batch]),
            stopping_criteria=StoppingCriteriaList([stops] if stops else []),
        )
        new = sequences[:, width:].tolist()
        lengths = stops.lengths if stops else [None] * len(batch)
        return {
            request.index: self._response(request, tokens, length)
            for request, tokens, length in zip(batch, new, lengths, strict=True)
        }

    def _response(self, request: _Request, tokens: list[int], stopped_at: int | None) -> Response:
        """Cut what the row produced from what padding or a neighbour's longer response added after it."""
        end = next((i + 1 for i, token in enumerate(tokens) if token in self._eos), None)
        ends = [length for length in (end, stopped_at) if length is not None]
        tokens = tokens[: min(ends)] if ends else tokens
        # The end token may be an ordinary one, such as a newline.
        said = tokens[:-1] if end == len(tokens) else tokens
        text = str(self._tokenizer.decode(said, skip_special_tokens=True))
        cuts = [at for stop in self._sampling.stop if (at := text.find(stop)) >= 0]
        text = text[: min(cuts)] if cuts else text
        return Response(text, "stop" if ends else "length", len(request.tokens), len(tokens))


def _failed(request: _Request, error: Exception) -> Response:
    kind = "out_of_memory" if out_of_memory(error) else "model_error"
    message = f"{type(error).__name__}: {models.first_line(error)}"
    return Response(input_tokens=len(request.tokens), error_type=kind, error=message)
