"""Refilled batches, attention: of prompts that are read behind their prefix, and of one new token of each row, which
attends to the shared prefix and to the row's slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

if TYPE_CHECKING:
    from batchroute.generators.transformers.slots import Slots

SLOTS, BEHIND = "batchroute_slots", "batchroute_behind"
_OTHER_KINDS = ("softcap", "s_aux", "position_bias")
# torch's own attention on a CPU, which also returns the logarithms of the sums of exponentials.
_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """A context in which all layers of the model use `SLOTS` (a call of the model must pass `slots`) or `BEHIND`."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def attend_behind(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of prompts behind a short prefix, without a mask, so that torch leaves out what is hidden.

    That needs as many queries as keys: the prefix gets queries of zeros, whose answers are dropped.

    Args:
        query: of shape [rows, heads, tokens, dim].
        key, value: of the prefix and the tokens, of shape [rows, heads of keys, prefix + tokens, dim].

    Returns:
        The output of shape [rows, tokens, heads, dim of values], and no weights.

    Raises:
        ValueError: the model needs a kind of attention that this one is not.
    """
    _check_kind(kwargs)
    before = key.shape[2] - query.shape[2]
    query = functional.pad(query, (0, 0, before, 0))
    out = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    return out[:, :, before:].transpose(1, 2).contiguous(), None


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
        key, value: all slots of the layer, of shape [slots, heads of keys, width, dim].
        attention_mask: added to the scores, of shape [rows, 1, 1, shared + columns].

    Returns:
        The output of shape [rows, 1, heads, dim of values], and no weights.

    Raises:
        ValueError: the model needs a kind of attention that slots do not support.
    """
    _check_kind(kwargs)
    rows, heads, _, dim = query.shape
    groups = key.shape[1]
    # Heads that share keys and values are read as the tokens of one head.
    query = query.reshape(rows, groups, heads // groups, dim)
    scale = dim**-0.5 if scaling is None else scaling
    prefix = slots.layers[module.layer_idx].prefix
    if query.device.type == "cpu" and value.shape[-1] == dim:
        out = _on_cpu(query, key, value, attention_mask, slots, scale, prefix)
    else:
        out = _by_products(query * scale, key, value, attention_mask, slots, prefix)
    return out.reshape(rows, 1, heads, -1), None


def _on_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    slots: Slots,
    scale: float,
    prefix: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """Attention of queries [rows, groups, heads of one, dim], in one pass over keys and values."""
    found = []
    for start, end, seen in slots.spans:
        masked = mask[start:end, :, :, slots.shared : slots.shared + seen]
        own, values = key[start:end, :, :seen], value[start:end, :, :seen]
        found.append(_attention(query[start:end], own, values, 0.0, False, attn_mask=masked, scale=scale))
    out = torch.cat([part for part, _ in found])
    if prefix is None:
        return out
    # The queries of all rows as the tokens of one: the prefix is read from memory once for all rows.
    rows, groups, together, dim = query.shape
    below = query.transpose(0, 1).reshape(1, groups, rows * together, dim)
    masked = mask[:, 0, :, : slots.shared].expand(-1, together, -1).reshape(1, 1, rows * together, -1)
    kept = [states[None] for states in prefix]
    before, sums = _attention(below, *kept, 0.0, False, attn_mask=masked, scale=scale)
    before, sums = (part.view(groups, rows, together, -1).transpose(0, 1) for part in (before[0], sums[0]))
    # Each part has the share of its sum of exponentials; a row without the prefix, whose mask hides it, has none of it.
    share = torch.sigmoid(torch.cat([part for _, part in found])[..., None] - sums)
    return torch.lerp(before, out, share.to(out.dtype))


def _by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    slots: Slots,
    prefix: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """As `_on_cpu` by plain products, of scaled queries."""
    rows, groups, together, dim = query.shape
    shared, before = slots.shared, None
    if prefix is not None:
        below = query.transpose(0, 1).reshape(groups, -1, dim)
        before = torch.matmul(below, prefix[0].transpose(1, 2)).view(groups, rows, -1, shared).transpose(0, 1)
    outputs, weights = [], []
    for start, end, seen in slots.spans:
        scores = torch.matmul(query[start:end], key[start:end, :, :seen].transpose(2, 3))
        if before is not None:
            scores = torch.cat([before[start:end], scores], dim=-1)
        scores += mask[start:end, :, :, : shared + seen]
        probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        outputs.append(torch.matmul(probabilities[..., shared:], value[start:end, :, :seen]))
        weights.append(probabilities[..., :shared])
    out = torch.cat(outputs)
    if prefix is not None:
        below = torch.cat(weights).transpose(0, 1).reshape(groups, -1, shared)
        out += torch.matmul(below, prefix[1]).view(groups, rows, together, -1).transpose(0, 1)
    return out


def _check_kind(kwargs: dict[str, Any]) -> None:
    for kind in _OTHER_KINDS:
        if kwargs.get(kind) is not None:
            raise ValueError(f"refilled batches do not support {kind}")


AttentionInterface.register(SLOTS, attend)
AttentionInterface.register(BEHIND, attend_behind)
