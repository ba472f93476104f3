"""BERT as in Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (arXiv 1810.04805), for scoring.

Its operations are those of transformers' BERT in the same order, so that the scores are the same, and modules have the
names that they have in checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors.torch import load_file
from torch import nn

_WEIGHTS = "model.safetensors"
# Settings whose other values change what is computed, with the values that they have here; absent counts as the first.
_USUAL: Mapping[str, tuple[object, ...]] = {
    "model_type": ("bert",),
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "chunk_size_feed_forward": (0,),
    "quantization_config": (None,),
    "auto_map": (None,),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Of a model's `config.json`, by the names that they have there."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    pad_token_id: int
    num_labels: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self | None:
        """None if the configuration lacks a setting, or has one that changes what is computed."""
        if any(config.get(name, values[0]) not in values for name, values in _USUAL.items()):
            return None
        labels = len(config.get("id2label") or range(config.get("num_labels", 2)))
        known: dict[str, Any] = {"num_labels": labels, **{one.name: config.get(one.name) for one in fields(cls)[:-1]}}
        return None if None in known.values() else cls(**known)

    def get_text_config(self) -> Self:
        """As a configuration of transformers has it: the settings of the part that reads text."""
        return self


class States(NamedTuple):
    """float32, or the precision of the weights: [rows, tokens, hidden]; [rows, 1, hidden] where one token is enough."""

    last_hidden_state: torch.Tensor


class Logits(NamedTuple):
    """[rows, labels], in the precision of the weights."""

    logits: torch.Tensor


class BertEncoder(nn.Module):
    """Hidden states of texts.

    Attributes:
        all_tokens: whether the last layer is computed for all tokens. A classifier reads the first one alone: keys and
            values come from all tokens, the query and all that follows attention are of one.
    """

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config, self.all_tokens = config, True
        self.embeddings = _Embeddings(config)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))

    @property
    def base_model(self) -> BertEncoder:
        return self

    @property
    def dtype(self) -> torch.dtype:
        return self.embeddings.word_embeddings.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> States:
        """
        Args:
            input_ids: int64 [rows, tokens].
            attention_mask: [rows, tokens], 0 for padding; None if no row is padded, which is faster.
            token_type_ids: int64 [rows, tokens], 0 unless given.
        """
        mask = None
        if attention_mask is not None:
            mask = attention_mask.bool()[:, None, None, :].expand(-1, 1, input_ids.shape[1], -1)
        hidden = self.embeddings(input_ids, token_type_ids)
        *before, last = self.encoder.layer  # type: ignore[misc]
        for layer in before:
            hidden = layer(hidden, mask, hidden)
        return States(last(hidden, mask, hidden if self.all_tokens else hidden[:, :1]))


class BertClassifier(nn.Module):
    """One logit, or two, by the first token's state."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.bert = BertEncoder(config)
        self.bert.all_tokens = False
        self.pooler = _Linear(config.hidden_size, config.hidden_size)
        self.classifier = _Linear(config.hidden_size, config.num_labels)

    @property
    def base_model(self) -> BertEncoder:
        return self.bert

    @property
    def dtype(self) -> torch.dtype:
        return self.bert.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        return self.bert.get_input_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> Logits:
        """Args as of `BertEncoder`."""
        states = self.bert(input_ids, attention_mask, token_type_ids)
        return Logits(self.classifier(self.pooler(states.last_hidden_state[:, 0]).tanh()))


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Nothing: the weights come from the checkpoint."""


class _Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """As of `_Linear`."""


class _Embeddings(nn.Module):
    def __init__(self, config: Settings) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = _Embedding(config.vocab_size, width)
        self.position_embeddings = _Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = _Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None) -> torch.Tensor:
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        hidden = self.word_embeddings(input_ids) + self.token_type_embeddings(types)
        normed: torch.Tensor = self.LayerNorm(hidden + self.position_embeddings(positions))
        return normed


class _Layer(nn.Module):
    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = nn.Module()
        self.intermediate.dense = _Linear(config.hidden_size, config.intermediate_size)
        self.output = _Output(config.intermediate_size, config)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor:
        """
        Args:
            wanted: those of the hidden states whose tokens are computed: all of them, or the first ones.
        """
        attended = self.attention(hidden, mask, wanted)
        wide = nn.functional.gelu(self.intermediate.dense(attended))  # type: ignore[operator]
        result: torch.Tensor = self.output(wide, attended)
        return result


class _Attention(nn.Module):
    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Output(config.hidden_size, config)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.output(self.self(hidden, mask, wanted), wanted)
        return result


class _SelfAttention(nn.Module):
    def __init__(self, config: Settings) -> None:
        super().__init__()
        width = config.hidden_size
        self._heads = config.num_attention_heads
        self.query, self.key, self.value = _Linear(width, width), _Linear(width, width), _Linear(width, width)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part.unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for part in (self.query(wanted), self.key(hidden), self.value(hidden))
        )
        shown = None if mask is None else mask[:, :, : wanted.shape[1]]
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=shown)
        return attended.transpose(1, 2).flatten(2)


class _Output(nn.Module):
    def __init__(self, inputs: int, config: Settings) -> None:
        super().__init__()
        self.dense = _Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, inputs: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.LayerNorm(self.dense(inputs) + residual)
        return normed


def read(
    folder: Path, config: Mapping[str, Any], headless: bool, dtype: torch.dtype
) -> BertClassifier | BertEncoder | None:
    """The model in a folder; None if its settings or the names of its weights are unusual.

    Args:
        config: of `config.json`.
        headless: as of `batchroute.router.plain.load`.

    Raises:
        OSError, RuntimeError, safetensors.SafetensorError: the weights are missing, damaged, or of other shapes.
    """
    settings = Settings.of(config)
    if settings is None or config["architectures"] != ["BertModel" if headless else "BertForSequenceClassification"]:
        return None
    if not headless and settings.num_labels not in (1, 2):
        return None
    model = BertEncoder(settings) if headless else BertClassifier(settings)
    weights = {
        name.replace("bert.pooler.dense.", "pooler."): weight.to(dtype)
        for name, weight in load_file(folder / _WEIGHTS).items()
    }
    # As transformers does, weights beyond the model's own are left alone, such as the pooler of an encoder.
    missing = model.load_state_dict(weights, strict=False, assign=True).missing_keys
    return None if missing else model.eval()
