"""Static batches: rows of similar length generate together until the last of them has ended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import StoppingCriteriaList

from batchroute.errors import BatchrouteError
from batchroute.generators.base import Response
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.decoding import LogProbabilities, StopStrings, logits_processors
from batchroute.generators.transformers.finite import FiniteLogits, no_numbers
from batchroute.generators.transformers.loading import Loaded
from batchroute.generators.transformers.memory import FixedRows, RowsByMemory, Sizes, footprint, free_bytes
from batchroute.generators.transformers.neighbours import Sharing
from batchroute.generators.transformers.rows import Request, Writer, failed
from batchroute.hardware.devices import out_of_memory

CPU_ROWS = 16


class StaticBatches:
    """Answers requests in batches sorted by prompt length, which keeps padding small.

    Attributes:
        sharing: which rows may share a batch.
    """

    def __init__(self, loaded: Loaded, writer: Writer, spec: ModelSpec) -> None:
        self._loaded = loaded
        self._writer = writer
        self._sampling = spec.generation
        self._sizes = sizes(loaded, spec)
        self.sharing: Sharing = "padded"

    def answer(self, requests: Sequence[Request]) -> dict[int, Response]:
        """One response for each request, by the request's index."""
        # The longest first: if a batch does not fit in memory, the first one shows it.
        ordered = sorted(requests, key=lambda request: len(request.tokens), reverse=True)
        responses: dict[int, Response] = {}
        start = 0
        while start < len(ordered):
            longest = len(ordered[start].tokens)
            batch = ordered[start : start + (1 if self.sharing == "singly" else self._sizes.rows(longest))]
            if self.sharing == "equal lengths":
                batch = [request for request in batch if len(request.tokens) == longest]
            answered = self._answer(batch)
            responses.update(answered)
            start += len(answered)
        return responses

    def _answer(self, batch: list[Request]) -> dict[int, Response]:
        """Responses to all of `batch`; none if memory ran out, which halves the batch size."""
        try:
            return self._decode(batch)
        except BatchrouteError:
            # The run ends, such as by a signal that came in the model: no error of it.
            raise
        except Exception as error:
            if len(batch) == 1:
                return {batch[0].index: failed(batch[0], error)}
            if out_of_memory(error):
                self._sizes.shrink(len(batch))
                return {}
        # An error of one row must not fail the others: ask row by row.
        return {request.index: self._answer([request])[request.index] for request in batch}

    @torch.inference_mode()
    def _decode(self, batch: list[Request]) -> dict[int, Response]:
        tokenizer = self._writer.tokenizer
        padded = tokenizer.pad({"input_ids": [request.tokens for request in batch]}, return_tensors="pt")
        padded = padded.to(self._loaded.device)
        width = 1 if self._loaded.encoder_decoder else padded["input_ids"].shape[1]
        stops = None
        if self._sampling.stop:

            def is_stopped(row: int, tokens: list[int]) -> bool:
                return self._writer.is_stopped(batch[row], tokens)

            stops = StopStrings(tokenizer, self._sampling.stop, width, len(batch), is_stopped)
        processors = logits_processors(self._sampling, [request.seed for request in batch])
        finite = FiniteLogits()
        processors.insert(0, finite.processor)
        criteria = StoppingCriteriaList([finite.criterion, *([stops] if stops else [])])
        recorded = LogProbabilities() if self._writer.logprobs else None
        if recorded is not None:
            processors.insert(0, recorded.processor)
            criteria.append(recorded.criterion)
        sequences = self._loaded.model.generate(
            input_ids=padded["input_ids"],
            attention_mask=padded["attention_mask"],
            generation_config=self._writer.generation,
            logits_processor=processors,
            stopping_criteria=criteria,
        )
        new = sequences[:, width:].tolist()
        lengths = stops.lengths if stops else [None] * len(batch)
        logprobs = [None] * len(batch) if recorded is None else recorded.of_rows()
        responses = [
            self._writer.response(request, tokens, length, values)
            for request, tokens, length, values in zip(batch, new, lengths, logprobs, strict=True)
        ]
        numbers = finite.of_rows([response.output_tokens for response in responses])
        return {
            request.index: response if good else no_numbers(request)
            for request, response, good in zip(batch, responses, numbers, strict=True)
        }


def sizes(loaded: Loaded, spec: ModelSpec) -> Sizes:
    """The size of batches: `batch_size` if it is set, else 16 on a CPU and what fits the memory of a GPU."""
    if spec.batch_size != "auto":
        return FixedRows(spec.batch_size)
    if loaded.device.type != "cuda":
        return FixedRows(CPU_ROWS)
    sampling = spec.generation
    per_row = footprint(loaded.config, loaded.model.dtype.itemsize, sampled=not sampling.greedy)
    return RowsByMemory(per_row, sampling.max_new_tokens, lambda: free_bytes(loaded.devices))
