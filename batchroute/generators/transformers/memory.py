"""How many rows fit into the memory of a GPU at a time: arithmetic on a model's configuration, proven without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedConfig

_WINDOW = "sliding_attention"
# The rest is for what is not counted: workspaces of kernels, and gaps between blocks of memory.
_SHARE = 0.8
# Larger batches gain nothing, and all of their rows wait for the longest response.
_MOST_ROWS = 512


class Sizes(Protocol):
    """Says how many rows to generate at a time, and learns from batches that did not fit."""

    def rows(self, longest: int) -> int:
        """The size of a batch whose longest prompt has `longest` tokens; at least 1."""
        ...

    def shrink(self, rows: int) -> None:
        """A batch of so many rows (2 or more) ran out of memory: half of it may fit."""
        ...


class FixedRows:
    """The same number of rows whatever their length."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def rows(self, longest: int) -> int:
        return self._rows

    def shrink(self, rows: int) -> None:
        self._rows = rows // 2


class RowsByMemory:
    """As many rows as the free memory holds, so that short rows make larger batches."""

    def __init__(self, footprint: Footprint, new: int, free: Callable[[], int]) -> None:
        """
        Args:
            new: tokens that a row may write.
            free: bytes that are free now.
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
        # The share at which the last estimate would have been half of what was tried.
        self._share *= (rows // 2) / max(self._fit, rows)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that one row takes while a model of some shape answers it.

    Attributes:
        cached: of keys and values, for each token of prompt and response, in layers that keep them all.
        windowed: the same in layers that keep only the last `window` tokens.
        read: of one layer's activations, for each token of the prompt.
        squared: of attention masks and scores, for each pair of prompt tokens.
        logits: for the next token.
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
        value_bytes: of one number in the model's precision.
        sampled: whether tokens are drawn, which takes float64 copies of the logits.
    """
    config = config.get_text_config(decoder=True)
    layers = int(_first(config, "num_decoder_layers", "decoder_layers", "num_hidden_layers"))
    hidden = int(config.hidden_size)
    heads = int(config.num_attention_heads)
    per_layer = 2 * _kv_heads(config, heads) * int(_first(config, "head_dim", "d_kv", default=hidden // heads))
    windowed = _windowed_layers(config, layers)
    inner = int(_first(config, "intermediate_size", "d_ff", "ffn_dim", "n_inner", default=4 * hidden))
    # Relative positions are a bias of each head on each pair; other masks are one byte for all heads.
    biased = hasattr(config, "relative_attention_num_buckets") or config._attn_implementation == "eager"
    return Footprint(
        cached=(layers - windowed) * per_layer * value_bytes,
        windowed=windowed * per_layer * value_bytes,
        window=int(config.sliding_window) if windowed else 0,
        read=(4 * hidden + 3 * inner) * value_bytes,
        squared=2 * heads * value_bytes if biased else 1,
        # float32, beside what the model writes; drawn tokens add their probabilities, running sums and a mask.
        logits=int(config.vocab_size) * (4 + value_bytes + (28 if sampled else 0)),
    )


def row_bytes(footprint: Footprint, prompt: int, new: int) -> int:
    """Bytes of one row with so many prompt tokens that writes `new` more.

    An encoder-decoder keeps as much for both together: its cross-attention caches the prompt, its self-attention the
    response.
    """
    tokens = prompt + new
    kept = footprint.cached * tokens + footprint.windowed * min(tokens, footprint.window)
    return kept + footprint.read * prompt + footprint.squared * prompt * prompt + footprint.logits


def rows_that_fit(footprint: Footprint, free: int, longest: int, new: int) -> int:
    """How many rows of at most `longest` prompt tokens fit into `free` bytes; 0 when not even one does."""
    return free // row_bytes(footprint, longest, new)


def free_bytes(devices: Sequence[torch.device]) -> int:
    """Memory of GPUs that a batch may take: what is free of the driver, and what torch holds without using it.

    Over several GPUs layers are spread evenly, so that the fullest one decides.
    """
    found = []
    for device in devices:
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        found.append(torch.cuda.mem_get_info(device)[0] + unused)
    return min(found) * len(found)


def _kv_heads(config: PreTrainedConfig, heads: int) -> int:
    # Falcon's ways to share keys and values among heads.
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        return 1
    return int(_first(config, "num_key_value_heads", "num_kv_heads", default=heads))


def _windowed_layers(config: PreTrainedConfig, layers: int) -> int:
    if getattr(config, "sliding_window", None) is None:
        return 0
    kinds = getattr(config, "layer_types", None)
    return layers if kinds is None else list(kinds).count(_WINDOW)


def _first(config: PreTrainedConfig, *names: str, default: Any = None) -> Any:
    """The first of the attributes that is there and set."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), default)
