"""Refilled batches: a row that has ended makes room for the next one while its neighbours go on.

What many prompts begin with is read once, prompts are read beside others of their length, and each step carries only
rows that are still writing. Price: keys and values take their memory from the start, for the longest response that is
allowed.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any

from batchroute.errors import first_line
from batchroute.generators.base import Response
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.continuous import plain_attention
from batchroute.generators.transformers.loading import Loaded
from batchroute.generators.transformers.memory import FixedRows, RowsByMemory, Sizes, footprint, free_bytes
from batchroute.generators.transformers.prefixes import shared_prefixes
from batchroute.generators.transformers.rows import Request, Writer
from batchroute.generators.transformers.running import Row, Running
from batchroute.generators.transformers.static import CPU_ROWS
from batchroute.hardware.devices import out_of_memory

# More rows make products of matrices little faster, and their keys and values take more memory.
_CPU_MOST_ROWS = 64
_CPU_BYTES = 2 << 30
# Tokens that are read at a time: more make products no faster, fewer let rows join sooner.
_CPU_READ = 512
_GPU_READ = 4096
# Each row that is read has a copy of its prefix beside it meanwhile: so many times as many tokens, with these.
_WITH_PREFIX = 8
# So many errors one after another, with no answer between them: this model cannot do it.
_HOPELESS = 3
_ARGUMENTS = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}


def can_refill(loaded: Loaded) -> bool:
    """Whether the model can generate so: a decoder on one device whose attention takes masks that are made for it."""
    config, model = loaded.config.get_text_config(), loaded.model
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        not loaded.encoder_decoder
        and len(loaded.devices) == 1
        and plain_attention(loaded)
        and model.config.get_text_config()._attn_implementation == "sdpa"
        # Their factors for all rows of a step depend on the longest one.
        and rope.get("rope_type") not in ("dynamic", "longrope")
        and _takes_slots(model)
    )


def _takes_slots(model: Any) -> bool:
    parameters = inspect.signature(model.forward).parameters
    passed_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return passed_on and parameters.keys() >= _ARGUMENTS


class RefilledBatches:
    """Answers requests, the longest first.

    Attributes:
        died: what ended it for good, if something did: one error after another. The rows that had no answer by then
            are left to static batches.
    """

    def __init__(self, loaded: Loaded, writer: Writer, spec: ModelSpec) -> None:
        self.died: str | None = None
        self._loaded = loaded
        self._writer = writer
        self._sampling = spec.generation
        self._running: Running | None = None
        self._sizes = self._sizes_of(spec)
        self._read = _GPU_READ if loaded.device.type == "cuda" else _CPU_READ
        self._failures = 0

    def answer(self, requests: Sequence[Request]) -> dict[int, Response]:
        """Responses by the requests' indices; those that are missing are of rows that came upon an error."""
        responses: dict[int, Response] = {}
        waiting = _in_order(requests)
        while waiting and self.died is None:
            slots, width = self._size(waiting[0], len(waiting))
            self._running = Running(self._loaded, self._writer, self._sampling, slots, width)
            try:
                self._answer(self._running, waiting, responses)
            finally:
                self._running = None
        return responses

    def _answer(self, running: Running, waiting: list[Row], responses: dict[int, Response]) -> None:
        """Answer all rows, or as many as there is memory for: then those that were running wait again."""
        while running.rows or (waiting and self.died is None):
            try:
                self._refill(running, waiting)
                ended = running.step() if running.rows else []
            except Exception as error:
                self._lose(error, running.rows, waiting)
                return
            for row, stopped in ended:
                responses[row.request.index] = self._writer.response(row.request, row.written, stopped)
                self._failures = 0

    def _refill(self, running: Running, waiting: list[Row]) -> None:
        """Let rows join, as many at a time as are read together, while there is room for them."""
        while waiting and self.died is None:
            self._widen(running, waiting)
            # A quarter at most, so that not too many slots stand empty until there is room for all of them.
            group = _next(waiting, max(1, running.slots // 4), self._read)
            if len(group) > running.slots - len(running.rows):
                return
            joined = {row.request.index for row in group}
            waiting[:] = [row for row in waiting if row.request.index not in joined]
            try:
                running.read(group)
            except Exception as error:
                if out_of_memory(error):
                    running.rows += group
                    raise
                # Those that are running have no part in it.
                self._lose(error, group, waiting)

    def _widen(self, running: Running, waiting: list[Row]) -> None:
        """Take more slots once the longest rows have left, where shorter ones leave memory for them."""
        longest = max([*running.rows, waiting[0]], key=_columns)
        if 5 * (_columns(longest) + self._sampling.max_new_tokens) > 4 * running.width:
            return
        slots, width = self._size(longest, len(running.rows) + len(waiting))
        if 4 * slots >= 5 * running.slots:
            running.resize(slots, width)

    def _size(self, longest: Row, rows: int) -> tuple[int, int]:
        """How many slots to take for so many rows, and how wide they are."""
        columns = _columns(longest)
        return min(rows, self._sizes.rows(columns)), columns + self._sampling.max_new_tokens

    def _lose(self, error: Exception, rows: Sequence[Row], waiting: list[Row]) -> None:
        """Rows came upon an error: let them wait for fewer neighbours, or leave them to static batches."""
        if out_of_memory(error) and len(rows) > 1:
            self._sizes.shrink(len(rows))
            waiting[:0] = [Row(row.request, row.prefix, row.shared) for row in rows]
            waiting.sort(key=_order)
            return
        self._failures += 1
        if self._failures >= _HOPELESS:
            self.died = f"{type(error).__name__}: {first_line(error)}"

    def _sizes_of(self, spec: ModelSpec) -> Sizes:
        if spec.batch_size != "auto":
            return FixedRows(spec.batch_size)
        model, new = self._loaded.model, self._sampling.max_new_tokens
        row = footprint(self._loaded.config, model.dtype.itemsize, sampled=not self._sampling.greedy)
        row = dataclasses.replace(row, cached=row.cached + row.windowed, windowed=0)
        if self._loaded.device.type != "cuda":
            return _RowsBySlots(row.cached, new)
        return RowsByMemory(row, new, self._free_bytes)

    def _free_bytes(self) -> int:
        taken = self._running.bytes if self._running is not None else 0
        return free_bytes(self._loaded.devices) + taken


class _RowsBySlots:
    """As many rows on a CPU as have room in some memory for keys and values, but no fewer than static batches.

    Not by what is free: the same rows must be neighbours in each run of a job.
    """

    def __init__(self, token_bytes: int, new: int) -> None:
        self._token_bytes = token_bytes
        self._new = new
        self._most = _CPU_MOST_ROWS

    def rows(self, longest: int) -> int:
        fit = _CPU_BYTES // (self._token_bytes * (longest + self._new))
        return min(max(fit, CPU_ROWS), self._most)

    def shrink(self, rows: int) -> None:
        self._most = rows // 2


def _in_order(requests: Sequence[Request]) -> list[Row]:
    """The longest first, since they show at once whether there is memory; those that are the same, together."""
    lengths = shared_prefixes([request.tokens for request in requests])
    prefixes = [tuple(request.tokens[:length]) for request, length in zip(requests, lengths, strict=True)]
    saved = Counter(prefixes)
    most = max(prefixes, key=lambda prefix: (saved[prefix] * len(prefix), prefix), default=())
    rows = [Row(request, prefix, prefix == most != ()) for request, prefix in zip(requests, prefixes, strict=True)]
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple[int, list[int], int]:
    return -_columns(row), row.request.tokens, row.request.index


def _columns(row: Row) -> int:
    """Of a slot, for the row's prompt."""
    return len(row.request.tokens) - (len(row.prefix) if row.shared else 0)


def _next(waiting: Sequence[Row], most: int, tokens: int) -> list[Row]:
    """The rows to read next: the longest that waits, and others with its prefix.

    Args:
        most: rows.
        tokens: to read for them, with padding; the first row is taken whatever its length.
    """
    first = waiting[0]
    width = max(1, len(first.own))
    fit = min(tokens // width, _WITH_PREFIX * tokens // (width + len(first.prefix)))
    group, texts = [first], 1
    for row in waiting[1:]:
        if row.prefix != first.prefix:
            continue
        texts += row.request.tokens != group[-1].request.tokens
        if texts > fit or len(group) == most:
            break
        group.append(row)
    return group
