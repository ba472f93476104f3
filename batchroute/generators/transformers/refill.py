"""Refilled batches, the scheduler: when rows end, waiting ones take their slots while the others go on.

A prefix that many prompts share is prefilled once, prompts of similar length are prefilled together, and a step
computes only rows that are still writing. Price: keys and values take memory for the longest allowed response from the
start, on a GPU; on a CPU a slot takes memory as it is written.

`RefilledBatches` moves rows from waiting to running, `prefill.Prefill` reads their prompts, `running.Running` decodes a
token of each in `step`, and `slots.Slots` is their cache of keys and values.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from batchroute.errors import BatchrouteError, first_line
from batchroute.generators.base import Response
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.continuous import plain_attention
from batchroute.generators.transformers.finite import no_numbers
from batchroute.generators.transformers.loading import Loaded
from batchroute.generators.transformers.memory import FixedRows, RowsByMemory, Sizes, footprint, free_bytes
from batchroute.generators.transformers.prefill import reads_end_to_end, tokens_at_once
from batchroute.generators.transformers.prefixes import shared_prefixes
from batchroute.generators.transformers.row import Row
from batchroute.generators.transformers.rows import Request, Writer
from batchroute.generators.transformers.running import Running
from batchroute.generators.transformers.static import CPU_ROWS
from batchroute.hardware.devices import out_of_memory

# More rows make matrix products little faster, and their keys and values take more memory. Rows that have written the
# same are one row of a product.
_CPU_MOST_BRANCHES = 64
_CPU_MOST_ROWS = 256
_CPU_BYTES = 2 << 30
# Address space for keys and values, as a multiple of the memory that they may take.
_CPU_SPARSE = 4
# During a prefill each row holds a copy of its prefix: with prefixes, at most this many times as many tokens.
_WITH_PREFIX = 8
# This many errors in a row without an answer between them: the model does not work in refilled batches.
_HOPELESS = 3
# Their attention sees the whole prompt, so a prompt cannot be read in parts.
_READ_PROMPTS_WHOLE = {"paligemma"}
_ARGUMENTS = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}


def can_refill(loaded: Loaded) -> bool:
    """Whether the model works in refilled batches: a decoder on one device whose attention takes a prepared mask."""
    config, model = loaded.config.get_text_config(), loaded.model
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        not loaded.encoder_decoder
        and loaded.config.model_type not in _READ_PROMPTS_WHOLE
        # Where layers differ, their keys and values have other shapes than the slots.
        and not getattr(config, "is_heterogeneous", False)
        and len(loaded.devices) == 1
        and plain_attention(loaded)
        and model.config.get_text_config()._attn_implementation == "sdpa"
        # These rotary embeddings scale all rows of a step by the longest one.
        and rope.get("rope_type") not in ("dynamic", "longrope")
        and _takes_slots(model)
    )


def _takes_slots(model: Any) -> bool:
    parameters = inspect.signature(model.forward).parameters
    passed_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return passed_on and parameters.keys() >= _ARGUMENTS


class RefilledBatches:
    """Answers requests, those with the longest prompts first.

    Attributes:
        prefixes: whether prefixes that many prompts share are prefilled once.
        died: the last of several errors in a row, after which nothing is generated any more; None: it works. The caller
            answers the remaining rows in static batches.
    """

    def __init__(self, loaded: Loaded, writer: Writer, spec: ModelSpec) -> None:
        self.prefixes = True
        self.died: str | None = None
        self._loaded = loaded
        self._writer = writer
        self._sampling = spec.generation
        self._running: Running | None = None
        self._sizes = self._sizes_of(spec)
        on_gpu = loaded.device.type == "cuda"
        self._padded, self._prefill_tokens = not reads_end_to_end(loaded), tokens_at_once(loaded)
        self._most_branches = sys.maxsize if on_gpu else _CPU_MOST_BRANCHES
        self._failures = 0

    def answer(self, requests: Sequence[Request]) -> dict[int, Response]:
        """Responses by the requests' indices. Rows that raised an error are missing."""
        responses: dict[int, Response] = {}
        waiting = _in_order(requests, self.prefixes)
        while waiting and self.died is None:
            slots, width = self._size(waiting)
            self._running = Running(self._loaded, self._writer, self._sampling, slots, width)
            try:
                self._generate(self._running, waiting, responses)
            finally:
                self._running.close()
                self._running = None
        return responses

    def _generate(self, running: Running, waiting: list[Row], responses: dict[int, Response]) -> None:
        """Answer all rows. An error of a step ends it: the rows that were running wait again, or are given up."""
        while running.rows or (waiting and self.died is None):
            try:
                self._admit(running, waiting)
                ended = running.step() if running.rows else []
            except BatchrouteError:
                # The run ends, such as by a signal that came in the model: no error of it.
                raise
            except Exception as error:
                self._recover(error, running.rows, waiting)
                return
            for row, stopped in ended:
                responses[row.request.index] = self._response(row, stopped)
                self._failures = 0

    def _response(self, row: Row, stopped: int | None) -> Response:
        if row.lost:
            return no_numbers(row.request)
        logprobs = row.logprobs if self._writer.logprobs else None
        return self._writer.response(row.request, row.written, stopped, logprobs)

    def _admit(self, running: Running, waiting: list[Row]) -> None:
        """Prefill groups of waiting rows while there are free slots for a whole group."""
        while waiting and self.died is None:
            self._add_slots(running, waiting)
            # At most a quarter of the prompts: larger groups would leave more slots empty until all of a group fit.
            branches = min(running.slots, self._most_branches)
            group = _next_group(waiting, max(1, branches // 4), running.slots, self._prefill_tokens, self._padded)
            if len(group) > running.slots - len(running.rows):
                return
            if len({tuple(row.request.tokens) for row in group}) > branches - len(running.branches):
                return
            joined = {row.request.index for row in group}
            waiting[:] = [row for row in waiting if row.request.index not in joined]
            try:
                running.prefill(group)
            except BatchrouteError:
                # The run ends, such as by a signal that came in the model: no error of it.
                raise
            except Exception as error:
                if out_of_memory(error):
                    running.branches.append(group)
                    raise
                # The error concerns the group alone: the running rows go on.
                self._recover(error, group, waiting)

    def _add_slots(self, running: Running, waiting: list[Row]) -> None:
        """Once the longest rows have ended, use their memory for more and narrower slots."""
        longest = max([*running.rows, waiting[0]], key=_columns)
        if 5 * (_columns(longest) + self._sampling.max_new_tokens) > 4 * running.width:
            return
        slots, width = self._size(sorted([*running.rows, *waiting], key=_columns, reverse=True))
        if 4 * slots >= 5 * running.slots:
            running.resize(slots, width)

    def _size(self, rows: Sequence[Row]) -> tuple[int, int]:
        """The number of slots for these rows, the longest first, and their width in columns."""
        longest = _columns(rows[0])
        if isinstance(self._sizes, _RowsBySlots):
            fit = self._sizes.of([_columns(row) for row in rows])
        else:
            fit = self._sizes.rows(longest)
        return min(len(rows), fit), longest + self._sampling.max_new_tokens

    def _recover(self, error: Exception, rows: Sequence[Row], waiting: list[Row]) -> None:
        """After an error of `rows`: put them back to wait for a smaller batch, or give them up to static batches."""
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
    """As many rows on a CPU as fit a fixed amount of memory for keys and values, but no fewer than static batches.

    The free memory does not count: in each run of a job, the same rows must be in a batch. A slot takes memory for what
    was written into it, so a few long rows leave room for many short ones.
    """

    def __init__(self, token_bytes: int, new: int, least: int = CPU_ROWS, memory: int = _CPU_BYTES) -> None:
        self._token_bytes, self._new, self._memory = token_bytes, new, memory
        self._least, self._most = least, _CPU_MOST_ROWS

    def rows(self, longest: int) -> int:
        return self.of([longest] * self._most)

    def of(self, columns: Sequence[int]) -> int:
        """How many of the rows with so many columns, the longest first, fit together with what they write."""
        room = self._memory // self._token_bytes
        wide = _CPU_SPARSE * room // (columns[0] + self._new)
        taken = itertools.accumulate(length + self._new for length in columns)
        fit = sum(1 for _ in itertools.takewhile(lambda tokens: tokens <= room, taken))
        return min(max(min(fit, wide), self._least), self._most)

    def shrink(self, rows: int) -> None:
        self._most = rows // 2


def _in_order(requests: Sequence[Request], with_prefixes: bool) -> list[Row]:
    """Rows to wait: the longest first, since they show at once whether memory suffices; equal prompts together."""
    tokens = [request.tokens for request in requests]
    lengths = shared_prefixes(tokens) if with_prefixes else [0] * len(tokens)
    prefixes = [tuple(request.tokens[:length]) for request, length in zip(requests, lengths, strict=True)]
    saved = Counter(prefixes)
    most = max(prefixes, key=lambda prefix: (saved[prefix] * len(prefix), prefix), default=())
    rows = [Row(request, prefix, prefix == most != ()) for request, prefix in zip(requests, prefixes, strict=True)]
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple[int, list[int], int]:
    return -_columns(row), row.request.tokens, row.request.index


def _columns(row: Row) -> int:
    """The columns of a slot that the row's prompt takes."""
    return len(row.request.tokens) - (len(row.prefix) if row.shared else 0)


def _next_group(waiting: Sequence[Row], most_texts: int, most: int, tokens: int, padded: bool) -> list[Row]:
    """The rows to prefill next: the longest waiting one, and others with its prefix.

    Args:
        most_texts: the most different prompts.
        most: the most rows.
        tokens: the most tokens to prefill; the first row is taken whatever its length.
        padded: whether all rows take as many tokens as the longest one, and a copy of the prefix.
    """
    first = waiting[0]
    width = max(1, len(first.unread))
    if padded:
        most_texts = min(most_texts, tokens // width, _WITH_PREFIX * tokens // (width + len(first.prefix)))
    group, texts, read = [first], 1, width
    for row in waiting[1:]:
        if row.prefix != first.prefix:
            continue
        other = row.request.tokens != group[-1].request.tokens
        texts += other
        read += len(row.unread) if other else 0
        # Copies of a prompt stay together, a branch at first.
        if texts > most_texts or len(group) == most or (other and len(group) >= max(1, most // 4)):
            break
        if read > tokens and not padded:
            break
        group.append(row)
    return group
