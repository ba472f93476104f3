"""The encoder that training starts from: with a new head for one logit, or frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from batchroute import models
from batchroute.errors import InputError
from batchroute.hardware import devices
from batchroute.models import quiet_transformers
from batchroute.router.fast import speed_up
from batchroute.router.loading import ensure_padding, token_limit, untrained
from batchroute.router.model import Router
from batchroute.router.reading import Reads

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


def frozen_encoder(
    base: str, max_length: int, device: torch.device, allow_pickle: bool = False, reads: Reads = "prompt"
) -> Router:
    """A router that gives `pooled` states alone, as a router with heads on this base will give them on this device.

    Raises:
        InputError: the base cannot be loaded, is a pickle that was not allowed, or brings code of its own.
    """
    model, tokenizer = _encoder(base, devices.precision("auto", device), allow_pickle)
    limit = min(max_length, token_limit(model, tokenizer))
    model = model.to(device).eval()
    speed_up(model)
    return Router(model, tokenizer, device, limit, reads=reads)


def save_encoder(base: str, folder: Path, allow_pickle: bool = False) -> None:
    """Write the bare encoder of a base and its tokenizer, in float32: a plain Hugging Face folder."""
    model, tokenizer = _encoder(base, torch.float32, allow_pickle)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _encoder(base: str, dtype: torch.dtype, allow_pickle: bool) -> tuple[Any, PreTrainedTokenizerBase]:
    path = models.resolve(base)
    allowed = models.loading(f"the base '{base}'", path, allow_pickle, models.BASE_KEYS)
    with quiet_transformers(), allowed:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model, info = AutoModel.from_pretrained(
            path,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=models.safetensors(allow_pickle),
            trust_remote_code=False,
        )
    if missing := untrained(info["missing_keys"]):
        raise InputError(f"the base '{base}' is not whole: its checkpoint has no {min(missing)}; download it again")
    ensure_padding(model, tokenizer, base)
    return model, tokenizer


def default_lr(model: torch.nn.Module) -> float:
    """Learning rate: small encoders need larger steps, and tolerate them."""
    return 1e-4 if sum(weights.numel() for weights in model.parameters()) < _SMALL_ENCODER else 1e-5


def optimizer(model: torch.nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW without weight decay for biases and norm scales, where decay regularises nothing."""
    matrices: dict[str, Any] = {"params": [weights for weights in model.parameters() if weights.ndim > 1]}
    vectors = {"params": [weights for weights in model.parameters() if weights.ndim <= 1], "weight_decay": 0.0}
    return torch.optim.AdamW([matrices, vectors], lr=lr, weight_decay=weight_decay)
