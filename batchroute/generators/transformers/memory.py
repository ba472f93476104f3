"""How many rows fit into the memory of a GPU at a time: arithmetic on a model's configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedConfig

from batchroute.models.configuration import layers_of, number, setting, text_config

_WINDOW = "sliding_attention"
# Of the free memory. The rest is for what is not counted: workspaces of kernels, and gaps between memory blocks.
_SHARE = 0.8
# Larger batches are no faster, and all their rows wait for the longest response.
_MOST_ROWS = 512
# Of a model whose configuration has other names for them: those of a model of 7 billion parameters. A wrong guess costs
# speed alone, since a batch that does not fit is halved.
_LAYERS, _HIDDEN, _HEADS, _VOCABULARY = 32, 4096, 32, 152_000


class Sizes(Protocol):
    """The number of rows to generate at a time; it shrinks when memory runs out."""

    def rows(self, longest: int) -> int:
        """The size of a batch whose longest prompt has `longest` tokens; at least 1."""
        ...

    def shrink(self, rows: int) -> None:
        """Record that a batch of `rows` rows (2 or more) ran out of memory: batches get half as large."""
        ...


class FixedRows:
    """The same number of rows, whatever their length."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def rows(self, longest: int) -> int:
        return self._rows

    def shrink(self, rows: int) -> None:
        self._rows = rows // 2


class RowsByMemory:
    """As many rows as the free memory holds: short rows make larger batches."""

    def __init__(self, footprint: Footprint, new: int, free: Callable[[], int]) -> None:
        """
        Args:
            new: the most tokens that a row may write.
            free: returns the bytes of memory that are free.
        """
        self._footprint = footprint
        self._new = new
        self._free = free
        self._share = _SHARE
        self._fit = 1

    def rows(self, longest: int) -> int:
        self._fit = rows_that_fit(self._footprint, int(self._free() * self._share), longest, self._new)
        return max(1, min(self._fit, _MOST_ROWS))

    def shrink(self, rows: int) -> None:
        # At this share the last estimate would have been half of `rows`.
        self._share *= (rows // 2) / max(self._fit, rows)


@dataclass(frozen=True, slots=True)
class Footprint:
    """The bytes that one row takes while a model answers it.

    Attributes:
        cached: keys and values of a token of prompt or response, in layers that keep all tokens.
        windowed: keys and values of a token, in layers that keep only the last `window` tokens.
        read: one layer's activations of a prompt token.
        squared: attention masks and scores of a pair of prompt tokens.
        logits: the logits of the next token.
    """

    cached: int
    windowed: int
    window: int
    read: int
    squared: int
    logits: int


def footprint(config: PreTrainedConfig, value_bytes: int, sampled: bool = False) -> Footprint:
    """The memory that a row takes in a model of this configuration.

    Args:
        value_bytes: the bytes of a number in the model's precision.
        sampled: whether tokens are sampled, which takes float64 copies of the logits.
    """
    config = _decoder(config)
    layers = number(config, "num_decoder_layers", "decoder_layers", "num_hidden_layers", default=_LAYERS)
    hidden = number(config, "hidden_size", "d_model", default=_HIDDEN)
    heads = number(config, "num_attention_heads", default=_HEADS)
    kept = {True: 0, False: 0}
    window = 0
    for index, layer in enumerate(layers_of(config, layers)):
        windowed = _window_of(layer, config, index)
        window = max(window, windowed)
        kept[bool(windowed)] += 2 * _kv_heads(layer, heads, index) * _head_width(layer, hidden, heads)
    inner = number(config, "intermediate_size", "d_ff", "ffn_dim", "n_inner", default=4 * hidden)
    # A bias by relative positions has a number for each head and pair; other masks have one byte for all heads.
    eager = getattr(config, "_attn_implementation", None) == "eager"
    biased = hasattr(config, "relative_attention_num_buckets") or eager
    return Footprint(
        cached=kept[False] * value_bytes,
        windowed=kept[True] * value_bytes,
        window=window,
        read=(4 * hidden + 3 * inner) * value_bytes,
        squared=2 * heads * value_bytes if biased else 1,
        # A float32 copy of the model's own. Sampling adds probabilities, cumulative sums and a mask.
        logits=number(config, "vocab_size", default=_VOCABULARY) * (4 + value_bytes + (28 if sampled else 0)),
    )


def _decoder(config: PreTrainedConfig) -> Any:
    try:
        return config.get_text_config(decoder=True)
    except ValueError:
        return text_config(config)


def row_bytes(footprint: Footprint, prompt: int, new: int) -> int:
    """The bytes of a row with `prompt` prompt tokens that writes `new` tokens.

    The sum is the same for an encoder-decoder: its cross-attention caches the prompt, its self-attention the response.
    """
    tokens = prompt + new
    kept = footprint.cached * tokens + footprint.windowed * min(tokens, footprint.window)
    return kept + footprint.read * prompt + footprint.squared * prompt * prompt + footprint.logits


def rows_that_fit(footprint: Footprint, free: int, longest: int, new: int) -> int:
    """How many rows of at most `longest` prompt tokens fit into `free` bytes; 0 if not even one does."""
    return free // row_bytes(footprint, longest, new)


def free_bytes(devices: Sequence[torch.device]) -> int:
    """The memory of GPUs that a batch may take: what the driver has free, and what torch reserves without using it.

    A model on several GPUs has its layers spread evenly, so the fullest GPU decides.
    """
    free = []
    for device in devices:
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free.append(torch.cuda.mem_get_info(device)[0] + unused)
    return min(free) * len(free)


def _kv_heads(layer: Any, heads: int, index: int) -> int:
    # Falcon's settings for keys and values that heads share.
    if getattr(layer, "multi_query", False) and not getattr(layer, "new_decoder_architecture", False):
        return 1
    return number(layer, "num_key_value_heads", "num_kv_heads", default=heads, layer=index)


def _head_width(layer: Any, hidden: int, heads: int) -> int:
    return number(layer, "head_dim", "d_kv", default=hidden // heads)


def _window_of(layer: Any, config: Any, index: int) -> int:
    """The tokens that a layer keeps; 0 for all."""
    window = number(layer, "sliding_window", default=0)
    kinds = setting(config, "layer_types")
    if kinds is None or index >= len(kinds):
        return window
    return window if kinds[index] == _WINDOW else 0
