"""Models with random weights in the shapes of known ones, and what a device's matrix units reach at best."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DebertaV2Config,
    LlamaConfig,
    PreTrainedConfig,
)

VOCABULARY = 30_522
"""Of MiniLM's tokenizer: its tokens are what the models are given."""


def deberta(hidden: int, layers: int, heads: int) -> DebertaV2Config:
    """DeBERTa-v3's settings."""
    return DebertaV2Config(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * hidden, max_position_embeddings=512, relative_attention=True, position_buckets=256,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
        type_vocab_size=0, pad_token_id=0, num_labels=1,
    )  # fmt: skip


def llama(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=32_000, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, intermediate_size=intermediate, max_position_embeddings=4096,
        tie_word_embeddings=False,
    )  # fmt: skip


SHAPES: dict[str, PreTrainedConfig] = {
    "deberta-v3-base": deberta(768, 12, 12),
    "deberta-v3-large": deberta(1024, 24, 16),
    "llama-1b": llama(2048, 16, 32, 8, 8192),
    "llama-7b": llama(4096, 32, 32, 32, 11008),
    "tiny-deberta": deberta(64, 2, 2),
    "tiny-llama": llama(64, 2, 4, 2, 128),
}


def random_classifier(shape: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(SHAPES[shape], **settings)


def random_decoder(shape: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Made where it is to be: 7 billion weights take minutes to draw on a CPU."""
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(SHAPES[shape], dtype=dtype)


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large product, the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronize(device)
        started = time.perf_counter()
        one @ other
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
