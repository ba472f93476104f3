"""Refilled batches, attention: of prompts that are read end to end, and of one new token of each row. Both attend to
the shared prefix and to their rows' slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface

if TYPE_CHECKING:
    from batchroute.generators.transformers.slots import Slots

SLOTS = "batchroute_slots"
_OTHER_KINDS = ("softcap", "s_aux", "position_bias")
# torch's own attention on a CPU, which also returns the logarithms of the sums of exponentials.
_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@contextmanager
def attention(model: Any) -> Iterator[None]:
    """A context in which all layers of the model use `SLOTS`; a call of the model must pass `slots`."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = SLOTS
    try:
        yield
    finally:
        config._attn_implementation = before


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
    """Attention of one new token of each row, or of the tokens of `slots.segments`, to the shared prefix and the slots.

    Args:
        query: of shape [rows, heads, 1, dim], or [1, heads, tokens, dim].
        key, value: all slots of the layer, of shape [slots, heads of keys, width, dim].
        attention_mask: of new tokens, added to the scores, of shape [rows, 1, 1, shared + columns].

    Returns:
        The output of shape [rows, tokens, heads, dim of values], and no weights.

    Raises:
        ValueError: the model needs a kind of attention that slots do not support.
    """
    for kind in _OTHER_KINDS:
        if kwargs.get(kind) is not None:
            raise ValueError(f"refilled batches do not support {kind}")
    rows, heads, _, dim = query.shape
    groups = key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    prefix = slots.layers[module.layer_idx].prefix
    if slots.segments:
        return _of_prompts(query, key, value, slots, scale, prefix), None
    # Heads that share keys and values are read as the tokens of one head.
    query = query.reshape(rows, groups, heads // groups, dim)
    if query.device.type == "cpu" and value.shape[-1] == dim:
        out = _on_cpu(query, key, value, attention_mask, slots, scale, prefix)
    else:
        out = _by_products(query * scale, key, value, attention_mask, slots, prefix)
    return out.reshape(rows, 1, heads, -1), None


def _of_prompts(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    slots: Slots,
    scale: float,
    prefix: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """Attention of the tokens of all segments, without masks: within each segment, and of all to their one prefix."""
    found = []
    for slot, start, end in slots.segments:
        columns = slice(slots.before, slots.before + end - start)
        own, values = (kept[slot : slot + 1, :, columns] for kept in (key, value))
        found.append(_attention(query[:, :, start:end], own, values, 0.0, True, scale=scale))
    out, sums = (torch.cat([part.transpose(1, 2) for part in parts], dim=1) for parts in zip(*found, strict=True))
    if slots.before:
        first = slots.segments[0].slot
        prefix = key[first, :, : slots.before], value[first, :, : slots.before]
    elif prefix is None or not slots.behind_shared:
        return out
    before, before_sums = _attention(query, prefix[0][None], prefix[1][None], 0.0, False, scale=scale)
    return _joined(before.transpose(1, 2), before_sums.transpose(1, 2), out, sums)


def _joined(before: torch.Tensor, before_sums: torch.Tensor, out: torch.Tensor, out_sums: torch.Tensor) -> torch.Tensor:
    """The attention to two parts together, from that to each, of shape [..., dim], and the logarithms of their sums of
    exponentials, of shape [...]: each has the share of its sum.
    """
    return torch.lerp(before, out, torch.sigmoid(out_sums - before_sums)[..., None].to(out.dtype))


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
    before = before[0].view(groups, rows, together, -1).transpose(0, 1)
    # A row without the prefix, whose mask hides it, has no sum of it.
    sums = sums[0].view(groups, rows, together).transpose(0, 1)
    return _joined(before, sums, out, torch.cat([part for _, part in found]))


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


AttentionInterface.register(SLOTS, attend)
