"""Refilled batches, the prefill: reads prompts into the slots of rows that begin to run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from batchroute.generators.transformers.attention import attention
from batchroute.generators.transformers.layers import is_packed
from batchroute.generators.transformers.loading import Loaded
from batchroute.generators.transformers.row import Row
from batchroute.generators.transformers.slots import Segment, Slots, states

_GPU_TOKENS, _PADDED_TOKENS, _TOKENS = 4096, 512, 2048
# Of the largest activation: the C library returns 32 MB and more at each free, and zeroing new memory takes a tenth of
# a prefill.
_BYTES = 31 << 20


def reads_end_to_end(loaded: Loaded) -> bool:
    """Whether prompts are read end to end, without padding: by layers that compute each token by itself."""
    return is_packed(loaded.model) and getattr(loaded.config.get_text_config(), "sliding_window", None) is None


def tokens_at_once(loaded: Loaded) -> int:
    """The tokens of one prefill: with more, matrix products get no faster; with fewer, rows join sooner."""
    if loaded.device.type == "cuda":
        return _GPU_TOKENS
    if not reads_end_to_end(loaded):
        return _PADDED_TOKENS
    token_bytes: int = loaded.config.get_text_config().intermediate_size * loaded.model.dtype.itemsize
    return min(_TOKENS, _BYTES // token_bytes)


class Prefill:
    """Reads prompts, a prefix that many of them share once, and keeps what it read of prefixes."""

    def __init__(self, loaded: Loaded, slots: Slots) -> None:
        self._model, self._device = loaded.model, loaded.device
        self._slots = slots
        self._read = self._end_to_end if reads_end_to_end(loaded) else self._padded
        self._prefixes: dict[tuple[int, ...], DynamicCache] = {}

    def read(self, rows: Sequence[Row], first: int) -> None:
        """Read the prompts of rows with the same prefix into the slots from `first` on, but for their last tokens."""
        self._read(rows, first)

    def close(self) -> None:
        """Free the prefixes."""
        self._prefixes.clear()

    def _end_to_end(self, rows: Sequence[Row], first: int) -> None:
        """One call of the model without padding: the prompts stand one behind the other."""
        prefix, behind_shared = rows[0].prefix, rows[0].shared
        kept = self._prefix_of(rows[0])
        before = 0 if kept is None or behind_shared else len(prefix)
        slots = range(first, first + len(rows))
        if before and kept is not None:
            self._slots.join(kept, [0] * len(rows), first, 0)
        segments: dict[tuple[int, ...], Segment] = {}
        tokens: list[int] = []
        for slot, row in zip(slots, rows, strict=True):
            if tuple(row.unread) not in segments:
                segments[tuple(row.unread)] = Segment(slot, len(tokens), len(tokens) + len(row.unread))
                tokens += row.unread
        read = [segment for segment in segments.values() if segment.end > segment.start]
        if read:
            self._slots.read(read, before, behind_shared, len(self._model.base_model.layers) - 1)
            places = [len(prefix) + place for _, start, end in read for place in range(end - start)]
            with attention(self._model):
                self._model(
                    input_ids=torch.tensor([tokens], device=self._device),
                    position_ids=torch.tensor([places], device=self._device),
                    past_key_values=self._slots,
                    use_cache=True,
                    logits_to_keep=1,
                    slots=self._slots,
                )
        for slot, row in zip(slots, rows, strict=True):
            source = segments[tuple(row.unread)].slot
            if source != slot and row.column:
                self._slots.move([source], [slot], row.column)

    def _padded(self, rows: Sequence[Row], first: int) -> None:
        """One row of the call for each prompt: for layers that may read it otherwise behind another one."""
        numbers: dict[tuple[int, ...], int] = {}
        for row in rows:
            numbers.setdefault(tuple(row.unread), len(numbers))
        width = max(map(len, numbers))
        cache = self._prefixed(rows[0], len(numbers))
        if width:
            # Padding stands behind the tokens, which attend to nothing behind them: no mask is needed.
            pad = rows[0].request.tokens[-1:]
            self._forward([[*tokens, *(width - len(tokens)) * pad] for tokens in numbers], cache)
        sources = [numbers[tuple(row.unread)] for row in rows]
        self._slots.join(cache, sources, first, len(rows[0].prefix) if rows[0].shared else 0)

    def _prefix_of(self, row: Row) -> DynamicCache | None:
        """A cache of one row that contains the row's prefix, which the model reads once; None if it has none."""
        if row.prefix and row.prefix not in self._prefixes:
            # Made without a configuration, layers with a sliding window keep all tokens too.
            read = DynamicCache()
            self._forward([list(row.prefix)], read)
            self._prefixes[row.prefix] = read
            if row.shared:
                self._slots.share(read)
        return self._prefixes.get(row.prefix)

    def _prefixed(self, first: Row, rows: int) -> DynamicCache:
        """A cache of `rows` rows that contains the prefix of `first`."""
        cache, kept = DynamicCache(), self._prefix_of(first)
        for keys, values in states(kept) if kept is not None else ():
            layer = DynamicLayer()  # type: ignore[no-untyped-call]
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = (kept.expand(rows, -1, -1, -1) for kept in (keys, values))
            cache.layers.append(layer)
        return cache

    def _forward(self, tokens: list[list[int]], cache: DynamicCache) -> None:
        ids = torch.tensor(tokens, device=self._device)
        rows, width = ids.shape
        before = cache.get_seq_length()
        self._model(
            input_ids=ids,
            attention_mask=ids.new_ones((rows, before + width)),
            position_ids=torch.arange(before, before + width, device=self._device).expand(rows, -1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
