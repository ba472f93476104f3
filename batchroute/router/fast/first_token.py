"""The last layer computed for the first token alone, from which a classifier makes its logits.

Keys and values still come from all tokens; the query and everything after attention are of one token. With six layers
that saves about a sixth of the work; scores differ by rounding alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_CLASSIFIERS = {
    f"{family}ForSequenceClassification" for family in ("Bert", "Camembert", "Electra", "Roberta", "XLMRoberta")
}
"""Classifiers whose head reads the first token, and whose layers are BERT's."""


class FirstToken(nn.Module):
    """Replaces the self-attention of the last layer for inference.

    Attributes:
        all_tokens: set by a caller that needs the last hidden states of all tokens.

    Raises:
        AttributeError: the layer of this version of transformers has other names inside.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.original = original
        self.all_tokens = False
        self._heads, self._scale = original.num_attention_heads, original.scaling
        # Read now, so that a renamed layer fails here and not while scoring.
        for name in ("query", "key", "value"):
            getattr(original, name)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, Any]:
        """
        Args:
            hidden_states: [rows, n, hidden].
            attention_mask: [rows, 1, n, n].

        Returns:
            [rows, 1, hidden], and no attention weights.
        """
        original = self.original
        if self.all_tokens:
            plain: tuple[torch.Tensor, Any] = original(hidden_states, attention_mask=attention_mask, **kwargs)
            return plain
        query, key, value = (
            layer(inputs).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for layer, inputs in (
                (original.query, hidden_states[:, :1]),
                (original.key, hidden_states),
                (original.value, hidden_states),
            )
        )
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self._scale)
        return attended.transpose(1, 2).flatten(2), None

    def shorten(self, _module: nn.Module, inputs: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Before attention's output layer: cut the residual input to the same token."""
        attended, hidden_states = inputs
        return attended, hidden_states[:, : attended.shape[1]]


def shorten(model: nn.Module) -> FirstToken | None:
    """Compute the last layer of a classifier for its first token; None for other architectures.

    Raises:
        AttributeError: this version of transformers has other names inside.
    """
    config: Any = model.config
    if type(model).__name__ not in _CLASSIFIERS or config._attn_implementation != "sdpa" or config.is_decoder:
        return None
    attention: Any = model.base_model.encoder.layer[-1].attention  # type: ignore[union-attr,index]
    first, output = FirstToken(attention.self), attention.output
    attention.self = first
    output.register_forward_pre_hook(first.shorten)
    return first
