"""The last layer for the first token alone, of which a classifier makes its logits.

Keys and values are of all tokens; queries, what attention finds, and all that follows are of one. Of six layers that is
a sixth of the work less, but for the rounding the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_CLASSIFIERS = {
    f"{family}ForSequenceClassification" for family in ("Bert", "Camembert", "Electra", "Roberta", "XLMRoberta")
}
"""Those whose heads read one token, and whose layers are BERT's."""


class FirstToken(nn.Module):
    """Takes the place of the self-attention in the last layer, for inference.

    Attributes:
        all_tokens: set while someone wants the last hidden states of all tokens.
    """

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.theirs = theirs
        self.all_tokens = False

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
        theirs = self.theirs
        if self.all_tokens:
            found: tuple[torch.Tensor, Any] = theirs(hidden_states, attention_mask=attention_mask, **kwargs)
            return found
        query, key, value = (
            layer(inputs).unflatten(-1, (theirs.num_attention_heads, -1)).transpose(1, 2)
            for layer, inputs in (
                (theirs.query, hidden_states[:, :1]),
                (theirs.key, hidden_states),
                (theirs.value, hidden_states),
            )
        )
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=theirs.scaling)
        return attended.transpose(1, 2).flatten(2), None

    def shorten(self, _module: nn.Module, inputs: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """For what comes after attention: the same token of what is added to it."""
        attended, hidden_states = inputs
        return attended, hidden_states[:, : attended.shape[1]]


def shorten(model: nn.Module) -> FirstToken | None:
    """Let the last layer of a classifier work on its first token; None where it cannot."""
    config: Any = model.config
    if type(model).__name__ not in _CLASSIFIERS or config._attn_implementation != "sdpa" or config.is_decoder:
        return None
    attention: Any = model.base_model.encoder.layer[-1].attention  # type: ignore[union-attr,index]
    first = attention.self = FirstToken(attention.self)
    attention.output.register_forward_pre_hook(first.shorten)
    return first
