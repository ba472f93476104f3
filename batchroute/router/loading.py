"""The model and the tokenizer of a router's folder, ready to score: by `plain` where that can, else by transformers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from batchroute import models
from batchroute.errors import InputError
from batchroute.hardware import devices
from batchroute.hardware.devices import Precision
from batchroute.router import plain
from batchroute.router.fast import int8, speed_up
from batchroute.router.plain.bert import BertClassifier, BertEncoder
from batchroute.router.plain.tokenizer import PlainTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from batchroute.router.fast.first_token import FirstToken

    Model = PreTrainedModel | BertClassifier | BertEncoder
    Tokenizer = PreTrainedTokenizerBase | PlainTokenizer

_DEFAULT_MAX_LENGTH = 512
# Tokenizers without a limit report 10³⁰.
_NO_LIMIT = 10**9


class Loaded(NamedTuple):
    """
    Attributes:
        last_layer: what computes the last layer for the first token alone, unless its `all_tokens` is set; None: it is
            computed for all.
        note: a sentence if this architecture is slower than others.
    """

    model: Model
    tokenizer: Tokenizer
    last_layer: FirstToken | BertEncoder | None
    note: str | None


def load(
    name: str, path: str, device: torch.device, precision: Precision, headless: bool, allow_pickle: bool
) -> Loaded:
    """The model of `Router.load`, on the device.

    Args:
        path: from `models.resolve`.
        headless: it is an encoder for heads of their own, and no classifier.

    Raises:
        InputError: as `Router.load`, of the model.
    """
    dtype = torch.float32 if precision == "int8" else devices.precision(precision, device)
    model: Any
    tokenizer: Any
    with models.loading(f"the router '{name}'", path, allow_pickle, models.ROUTER_KEYS):
        found = plain.load(Path(path), headless, dtype)
        model, tokenizer = _by_transformers(name, path, headless, allow_pickle, dtype) if found is None else found
    model = model.to(device).eval()
    last_layer: FirstToken | BertEncoder | None
    if found is None:
        ensure_padding(model, tokenizer, name)
        last_layer, note = speed_up(model)
    else:
        last_layer, note = None if headless else model.base_model, None
    if precision == "int8":
        int8.quantize(model)
    return Loaded(model, tokenizer, last_layer, note)


def _by_transformers(
    name: str, path: str, headless: bool, allow_pickle: bool, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    # The import takes longer than that of torch.
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    kind = AutoModel if headless else AutoModelForSequenceClassification
    with models.quiet_transformers():
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if not headless and config.num_labels not in (1, 2):
            raise InputError(
                f"the router '{name}' has {config.num_labels} labels: it must be a classifier with one or two"
            )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model, info = kind.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=models.safetensors(allow_pickle),
            trust_remote_code=False,
        )
    # transformers fills weights that the checkpoint lacks at random: such a head would route at random.
    if missing := untrained(info["missing_keys"]) if headless else info["missing_keys"]:
        raise InputError(
            f"'{name}' is no trained router: its checkpoint has no {min(missing)}; "
            f"train it with 'batchroute train --base {name}'"
        )
    return model, tokenizer


def untrained(missing: Iterable[str]) -> list[str]:
    """Of the weights that a checkpoint lacks, those that matter to heads: they do not read the pooler."""
    return [key for key in missing if not key.startswith("pooler.")]


def token_limit(model: Model, tokenizer: Tokenizer) -> int:
    """The most tokens, special tokens included, that the tokenizer and the model's position embeddings allow."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < _NO_LIMIT else []
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - _first_position(model))
    return int(min(limits, default=_DEFAULT_MAX_LENGTH))


def ensure_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give tokenizer and model a padding token if they have none, as is common for decoders.

    Raises:
        InputError: no token can serve as padding.
    """
    config = model.config
    if tokenizer.pad_token_id is None:
        candidates = (config.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
        pad = next((token for token in candidates if token is not None), None)
        if pad is None:
            raise InputError(f"the tokenizer of '{name}' has no padding token: set pad_token in its configuration")
        tokenizer.pad_token_id = pad
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def _first_position(model: Model) -> int:
    """RoBERTa and its relatives number positions from the padding token's id + 1, so they have that many fewer."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings"):
            padding: Any = getattr(module, "padding_idx", None)
            return 0 if padding is None else int(padding) + 1
    return 0
