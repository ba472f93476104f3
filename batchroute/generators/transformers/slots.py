"""A cache of keys and values whose rows come and go: a row of any length joins, and leaves, while the others go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

_NAME = "batchroute_slots"
_OTHER_KINDS = ("softcap", "s_aux", "position_bias")
# Rows of a CPU that attend together, to as many columns as the longest of them has.
_CPU_ROWS = 16


class Slots(Cache):
    """Keys and values of the rows that generate side by side, each at the beginning of a slot of its own.

    `DynamicCache` grows by a copy of itself at each token. Here each layer has one tensor of the shape
    [slots, heads, width, dim] from the start, new tokens are written into it, and attention sees a view of it. A row's
    tokens lie in the columns from 0 on, whatever its neighbours' length, so that what lies behind them must be masked.
    Layers with a sliding window keep all tokens too, which costs memory, and leaves the window to the mask.

    A prefix that rows share is kept once, beside the slots, and each layer attends to it once for all rows. The rows
    in use are always the first ones, so that a step computes none in vain.

    Attributes:
        slots: most rows at a time.
        width: most columns of a row.
        shared: tokens of the prefix.
        spans: of each piece of rows that attend together its first row, its end, and the columns that it sees.
    """

    layers: list[Any]

    def __init__(self, slots: int, width: int) -> None:
        super().__init__(layer_class_to_replicate=lambda: _SlotLayer(self))  # type: ignore[arg-type]
        self.slots, self.width, self.shared = slots, width, 0
        self.spans: list[tuple[int, int, int]] = []
        self._rows = self._columns = torch.empty(0)

    @property
    def bytes(self) -> int:
        """Memory that is taken now."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    def share(self, read: DynamicCache) -> None:
        """Keep the one row that was read as the prefix that rows may share."""
        self.shared = read.get_seq_length()
        for index, (keys, values) in enumerate(states(read)):
            self._layer(index).prefix = keys[0], values[0]

    def join(self, read: DynamicCache, sources: Sequence[int], first: int, skip: int) -> None:
        """Copy rows that have been read into the slots from `first` on.

        Args:
            read: keys and values [rows, heads, columns, dim] of each layer; what lies behind a row's own tokens is
                copied with them.
            sources: the row of `read` for each new row; one may serve several.
            skip: columns at the beginning to leave out: those of the shared prefix.
        """
        rows = slice(first, first + len(sources))
        for index, (keys, values) in enumerate(states(read)):
            slots, length = self._layer(index), keys.shape[2] - skip
            slots.make(keys, values)
            slots.keys[rows, :, :length] = keys[sources, :, skip:]
            slots.values[rows, :, :length] = values[sources, :, skip:]

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first `length` columns of some slots to others, none of which is among them."""
        for layer in self.layers:
            layer.keys[targets, :, :length] = layer.keys[sources, :, :length]
            layer.values[targets, :, :length] = layer.values[sources, :, :length]

    def resize(self, slots: int, width: int, rows: int, length: int) -> None:
        """Take another number of slots in place of these, and another width.

        Args:
            rows: how many of the first slots to keep.
            length: how many of their columns.
        """
        self.slots, self.width = slots, width
        for layer in self.layers:
            # One after the other: twice the memory of one is taken, not of all.
            layer.keys = self._moved(layer.keys, rows, length)
            layer.values = self._moved(layer.values, rows, length)

    def at(self, columns: Sequence[int], device: torch.device) -> torch.Tensor:
        """Say in which columns the first rows write in the next step; returns them as a tensor of shape [rows]."""
        rows = len(columns)
        together = _CPU_ROWS if device.type == "cpu" else rows
        starts = range(0, rows, together)
        self.spans = [(at, min(at + together, rows), max(columns[at : at + together]) + 1) for at in starts]
        self._rows, self._columns = torch.arange(rows, device=device), torch.tensor(columns, device=device)
        return self._columns

    @contextmanager
    def attended(self, model: Any) -> Iterator[None]:
        """Within, all layers of the model attend to slots; `slots` must be among the arguments of its call."""
        config = model.config.get_text_config()
        before = config._attn_implementation
        config._attn_implementation = _NAME
        try:
            yield
        finally:
            config._attn_implementation = before

    def zeros(self, like: torch.Tensor) -> torch.Tensor:
        """Slots for keys or values of the shape [rows, heads, columns, dim].

        Zeros, since what is masked is multiplied by 0, and memory that was never written may hold a NaN.
        """
        shape = (self.slots, like.shape[1], self.width, like.shape[3])
        if like.device.type != "cpu":
            return like.new_zeros(shape)
        # Of numpy's zeros only the pages that are written to are taken.
        room = np.zeros(shape[0] * shape[1] * shape[2] * shape[3] * like.itemsize, dtype=np.uint8)
        return torch.from_numpy(room).view(like.dtype).view(shape)

    def put(self, kept: torch.Tensor, new: torch.Tensor) -> None:
        """Write the keys or values of one token of each row, of the shape [rows, heads, 1, dim]."""
        kept[self._rows, :, self._columns] = new[:, :, 0]

    def _layer(self, index: int) -> _SlotLayer:
        while len(self.layers) <= index:
            self.layers.append(_SlotLayer(self))
        found: _SlotLayer = self.layers[index]
        return found

    def _moved(self, kept: torch.Tensor, rows: int, length: int) -> torch.Tensor:
        moved = self.zeros(kept)
        moved[:rows, :, :length] = kept[:rows, :, :length]
        return moved


def states(read: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The keys and the values [rows, heads, columns, dim] of each layer of a cache that has read something."""
    layers: list[Any] = read.layers
    return [(layer.keys, layer.values) for layer in layers]


class _SlotLayer(CacheLayerMixin):
    """The slots of one layer.

    Attributes:
        prefix: keys and values of the shape [heads, columns, dim] that rows share.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, slots: Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots
        self.keys = self.values = torch.empty(0)
        self.prefix: tuple[torch.Tensor, torch.Tensor] | None = None

    def make(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take the memory, in the shape and the precision of keys and values [rows, heads, columns, dim]."""
        if not self.is_initialized:
            self.keys, self.values = self._slots.zeros(keys), self._slots.zeros(values)
            self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.make(key_states, value_states)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token of each row. Attention takes keys and values from the slots, not from what is returned."""
        self.make(key_states, value_states)
        self._slots.put(self.keys, key_states)
        self._slots.put(self.values, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._slots.shared + max((seen for _, _, seen in self._slots.spans), default=1) - 1

    def get_max_length(self) -> int:
        return self._slots.shared + self._slots.width


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    slots: Slots,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token of each row to the shared prefix and to the row's slot.

    Args:
        query: of shape [rows, heads, 1, dim].
        key, value: all slots of the layer.
        attention_mask: what is added to the scores, of shape [rows, 1, 1, shared + columns].

    Returns:
        Of shape [rows, 1, heads, dim of values], and no weights.

    Raises:
        ValueError: the model asks for a kind of attention that this is not.
    """
    for kind in _OTHER_KINDS:
        if kwargs.get(kind) is not None:
            raise ValueError(f"slots do not support {kind}")
    rows, heads, _, dim = query.shape
    groups = key.shape[1]
    query = query.reshape(rows, groups, heads // groups, dim) * (dim**-0.5 if scaling is None else scaling)
    shared, prefix = slots.shared, slots.layers[module.layer_idx].prefix
    before = None
    if prefix is not None:
        # The rows' queries one below the other: the prefix is read once for all of them.
        below = query.transpose(0, 1).reshape(groups, -1, dim)
        before = torch.matmul(below, prefix[0].transpose(1, 2)).view(groups, rows, -1, shared).transpose(0, 1)
    found, weights = [], []
    for start, end, seen in slots.spans:
        scores = torch.matmul(query[start:end], key[start:end, :, :seen].transpose(2, 3))
        if before is not None:
            scores = torch.cat([before[start:end], scores], dim=-1)
        scores += attention_mask[start:end, :, :, : shared + seen]
        probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        found.append(torch.matmul(probabilities[..., shared:], value[start:end, :, :seen]))
        weights.append(probabilities[..., :shared])
    out = torch.cat(found)
    if prefix is not None:
        below = torch.cat(weights).transpose(0, 1).reshape(groups, -1, shared)
        out += torch.matmul(below, prefix[1]).view(groups, rows, heads // groups, -1).transpose(0, 1)
    return out.reshape(rows, 1, heads, -1), None


AttentionInterface.register(_NAME, attend)
