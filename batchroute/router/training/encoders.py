"""The encoder that training starts from, with a new head for one logit."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from batchroute import models
from batchroute.router.model import Router, ensure_padding, quiet_transformers, token_limit

_SMALL_ENCODER = 100_000_000


def untrained_router(base: str, max_length: int, device: torch.device, allow_pickle: bool = False) -> Router:
    """A router from any Hugging Face encoder, by directory, hub id or `embedded:NAME`; its head is random.

    Raises:
        InputError: the base cannot be loaded, is a pickle that was not allowed, or brings code of its own.
    """
    path = models.resolve(base)
    allowed = models.loading(f"the base '{base}'", path, allow_pickle, models.BASE_KEYS)
    with quiet_transformers(), allowed:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        # float32 whatever the checkpoint holds: half-precision weights lose small updates. If the base is a classifier
        # with another number of labels, its head is replaced.
        model = AutoModelForSequenceClassification.from_pretrained(
            path,
            num_labels=1,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=models.safetensors(allow_pickle),
            trust_remote_code=False,
        )
    # Tells other programs that load the router to apply a sigmoid.
    model.config.problem_type = "multi_label_classification"
    model.config.id2label, model.config.label2id = {0: "easy"}, {"easy": 0}
    ensure_padding(model, tokenizer, base)
    return Router(model.to(device), tokenizer, device, min(max_length, token_limit(model, tokenizer)))


def default_lr(model: torch.nn.Module) -> float:
    """Learning rate: small encoders need larger steps, and tolerate them."""
    return 1e-4 if sum(weights.numel() for weights in model.parameters()) < _SMALL_ENCODER else 1e-5


def optimizer(model: torch.nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW without weight decay for biases and norm scales, where decay regularises nothing."""
    matrices: dict[str, Any] = {"params": [weights for weights in model.parameters() if weights.ndim > 1]}
    vectors = {"params": [weights for weights in model.parameters() if weights.ndim <= 1], "weight_decay": 0.0}
    return torch.optim.AdamW([matrices, vectors], lr=lr, weight_decay=weight_decay)
