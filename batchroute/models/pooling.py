"""The embedding of a text: the mean of an encoder's last hidden states over its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def mean_of_tokens(hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The mean over the tokens that are no padding: float32 [rows, hidden], summed in float32.

    Args:
        hidden: [rows, tokens, hidden].
        mask: [rows, tokens], 1 for a token and 0 for padding; None if no row is padded.
    """
    import torch

    if mask is None:
        return hidden.mean(dim=1, dtype=torch.float32)
    return (hidden * mask[..., None]).sum(dim=1, dtype=torch.float32) / mask.sum(dim=1, keepdim=True)
