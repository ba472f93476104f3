"""Refilled batches, the cache: keys and values of rows that join and leave while others go on."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

# On a CPU at most this many rows attend together, to as many columns as the longest of them has, and only so many
# columns may be read in vain: the time of another call is that of about so many.
_CPU_ROWS = 16
_CPU_PADDING = 256


class Segment(NamedTuple):
    """A row's tokens in a call that reads several rows end to end: those from `start` to `end`, for the slot `slot`."""

    slot: int
    start: int
    end: int


class Slots(Cache):
    """The keys and values of the running rows, each row in a slot of its own.

    `DynamicCache` copies itself at each token. Here each layer allocates one tensor of shape
    [slots, heads, width, dim], writes new tokens into it, and attends to a view of it. A row's tokens start at column
    0, and the mask hides the columns behind them. Layers with a sliding window keep all tokens, which costs memory, and
    leave the window to the mask. A call of the model writes one token of each row (`at`), or the prompts of some
    (`read`).

    The shared prefix is kept once, outside of the slots, and each layer attends to it once for all rows. The running
    rows are always in the first slots, so a step computes no empty one.

    Attributes:
        slots: the most rows at a time.
        width: the most columns of a row.
        shared: the tokens of the shared prefix.
        spans: for each group of rows that attend together: its first row, its end, and the columns that it attends to.
        segments: the rows whose prompts the next call reads; none: it decodes one token of each row.
        before: of the slots of `segments`, the first columns, which hold the prefix of all these rows.
        behind_shared: whether the rows of `segments` attend to the shared prefix.
        ends_at: the last layer, if the next call is for keys and values alone: nobody reads what it answers.
    """

    layers: list[Any]

    def __init__(self, slots: int, width: int) -> None:
        super().__init__(layer_class_to_replicate=lambda: _SlotLayer(self))  # type: ignore[arg-type]
        self.slots, self.width, self.shared = slots, width, 0
        self.spans: list[tuple[int, int, int]] = []
        self.segments: Sequence[Segment] = ()
        self.before, self.behind_shared = 0, False
        self.ends_at: int | None = None
        self._rows = self._columns = torch.empty(0)

    @property
    def bytes(self) -> int:
        """The memory of all layers' slots."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    def share(self, read: DynamicCache) -> None:
        """Make the one row of `read` the shared prefix."""
        self.shared = read.get_seq_length()
        for index, (keys, values) in enumerate(states(read)):
            self._layer(index).prefix = keys[0], values[0]

    def join(self, read: DynamicCache, sources: Sequence[int], first: int, skip: int) -> None:
        """Copy prefilled rows into the slots from `first` on.

        Args:
            read: keys and values [rows, heads, columns, dim] of each layer; padding behind a row is copied too.
            sources: for each new row, its row in `read`; several may have the same.
            skip: the number of first columns to leave out: the shared prefix.
        """
        rows = slice(first, first + len(sources))
        for index, (keys, values) in enumerate(states(read)):
            slots, length = self._layer(index), keys.shape[2] - skip
            slots.make(keys, values)
            slots.keys[rows, :, :length] = keys[sources, :, skip:]
            slots.values[rows, :, :length] = values[sources, :, skip:]

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first `length` columns of the slots `sources` to the slots `targets`, which are others."""
        for layer in self.layers:
            layer.keys[targets, :, :length] = layer.keys[sources, :, :length]
            layer.values[targets, :, :length] = layer.values[sources, :, :length]

    def clean(self, slots: Sequence[int]) -> None:
        """Take out what is no number: the next row of a slot would read it behind its mask, as 0 × NaN."""
        for layer in self.layers:
            layer.keys[slots] = 0
            layer.values[slots] = 0

    def resize(self, slots: int, width: int, lengths: Sequence[int]) -> None:
        """Allocate slots of another number and width, and copy the rows.

        Args:
            lengths: the number of columns to copy, of each of the first slots. Others would take memory in vain.
        """
        self.slots, self.width = slots, width
        for layer in self.layers:
            # One tensor after the other: this takes twice the memory of one, not of all.
            layer.keys = self._moved(layer.keys, lengths)
            layer.values = self._moved(layer.values, lengths)

    def read(self, segments: Sequence[Segment], before: int, behind_shared: bool, last: int) -> None:
        """Write the tokens of `segments` in the next call, whose last layer is `last`; see the attributes."""
        self.segments, self.before, self.behind_shared = segments, before, behind_shared
        self.ends_at = last

    def at(self, columns: Sequence[int], device: torch.device) -> torch.Tensor:
        """Set the columns in which the rows write in the next step; returns them as a tensor of shape [rows]."""
        rows, self.segments, self.ends_at = len(columns), (), None
        self.spans = _spans(columns) if device.type == "cpu" else [(0, rows, max(columns) + 1)]
        self._rows, self._columns = torch.arange(rows, device=device), torch.tensor(columns, device=device)
        return self._columns

    def zeros(self, like: torch.Tensor) -> torch.Tensor:
        """Empty slots for keys or values like these, of shape [rows, heads, columns, dim].

        They hold zeros: masked values are multiplied by 0, and uninitialised memory may hold a NaN.
        """
        shape = (self.slots, like.shape[1], self.width, like.shape[3])
        if like.device.type != "cpu":
            return like.new_zeros(shape)
        # Pages of their own: they take memory once they are written, and give it back with the slots. Zeros from the
        # heap may be written at once, and a heap in pieces grows with each call of `generate`.
        pages = mmap.mmap(-1, shape[0] * shape[1] * shape[2] * shape[3] * like.itemsize)
        return torch.frombuffer(pages, dtype=like.dtype).view(shape)

    def free(self) -> None:
        """Give the memory back at once: slots and layers hold each other, so they would wait for the collector."""
        self.layers.clear()

    def put(self, kept: torch.Tensor, new: torch.Tensor) -> None:
        """Write keys or values, of a token of each row [rows, heads, 1, dim] or of prompts [1, heads, tokens, dim]."""
        for slot, start, end in self.segments:
            kept[slot, :, self.before : self.before + end - start] = new[0, :, start:end]
        if not self.segments:
            kept[self._rows, :, self._columns] = new[:, :, 0]

    def _layer(self, index: int) -> _SlotLayer:
        while len(self.layers) <= index:
            self.layers.append(_SlotLayer(self))
        layer: _SlotLayer = self.layers[index]
        return layer

    def _moved(self, kept: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        moved = self.zeros(kept)
        if kept.device.type != "cpu":
            # All of it is memory already, and one copy starts faster than many.
            rows, longest = len(lengths), max(lengths, default=0)
            moved[:rows, :, :longest] = kept[:rows, :, :longest]
            return moved
        for slot, length in enumerate(lengths):
            moved[slot, :, :length] = kept[slot, :, :length]
        return moved


def _spans(columns: Sequence[int]) -> list[tuple[int, int, int]]:
    spans: list[tuple[int, int, int]] = []
    start = read = longest = 0
    for row, column in enumerate(columns):
        longest, read = max(longest, column + 1), read + column + 1
        rows = row + 1 - start
        if rows > 1 and (rows > _CPU_ROWS or rows * longest - read > _CPU_PADDING):
            spans.append((start, row, max(columns[start:row]) + 1))
            start, read, longest = row, column + 1, column + 1
    spans.append((start, len(columns), longest))
    return spans


def states(read: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The keys and the values [rows, heads, columns, dim] of each layer of a cache."""
    layers: list[Any] = read.layers
    return [(layer.keys, layer.values) for layer in layers]


class _SlotLayer(CacheLayerMixin):
    """The slots of one layer.

    Attributes:
        prefix: keys and values of the shared prefix, of shape [heads, columns, dim].
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, slots: Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots
        self.keys = self.values = torch.empty(0)
        self.prefix: tuple[torch.Tensor, torch.Tensor] | None = None

    def make(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Allocate the slots, once, in the shape and precision of keys and values [rows, heads, columns, dim]."""
        if not self.is_initialized:
            self.keys, self.values = self._slots.zeros(keys), self._slots.zeros(values)
            self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.make(key_states, value_states)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the tokens of this call; returns the whole slots, which `attend` reads."""
        self.make(key_states, value_states)
        self._slots.put(self.keys, key_states)
        self._slots.put(self.values, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        if self._slots.segments:
            return self._slots.shared if self._slots.behind_shared else self._slots.before
        return self._slots.shared + max((seen for _, _, seen in self._slots.spans), default=1) - 1

    def get_max_length(self) -> int:
        return self._slots.shared + self._slots.width
