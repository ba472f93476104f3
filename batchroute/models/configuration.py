"""What a model's configuration tells: of models whose layers differ too, and of those for more than text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchroute.models import EMBEDDED_PREFIX

if TYPE_CHECKING:
    import torch


def saved_precision(name: str, config: Any) -> torch.dtype | None:
    """The precision that a model's weights have by their making; None if its configuration does not say.

    Weights of an embedded model come from 4 bits, so bfloat16 holds them about as well as the float32 that some are
    saved in.

    Args:
        name: as in a job file.
        config: its `PreTrainedConfig`.
    """
    import torch

    if _is_dequantised(name):
        return torch.bfloat16
    saved = config.dtype or getattr(text_config(config), "dtype", None)
    return saved if isinstance(saved, torch.dtype) else None


def _is_dequantised(name: str) -> bool:
    from batchroute.models.embedded.sources import SOURCES

    origin = SOURCES.get(name.removeprefix(EMBEDDED_PREFIX)) if name.startswith(EMBEDDED_PREFIX) else None
    return origin is not None and origin.is_gguf


def largest_matrix(config: Any) -> tuple[int, int]:
    """Rows and columns of the matrices that take most of a model's time, those of its feed-forward layers."""
    text = text_config(config)
    hidden = number(text, "hidden_size", "d_model", default=1024)
    return number(text, "intermediate_size", "d_ff", "ffn_dim", "n_inner", default=4 * hidden), hidden


def text_config(config: Any) -> Any:
    """The configuration of the part that reads and writes text: its own, or a nested one."""
    try:
        return config.get_text_config()
    except ValueError:  # Several parts read text.
        try:
            return config.get_text_config(decoder=True)
        except ValueError:
            return getattr(config, "text_config", config)


def layers_of(config: Any, layers: int) -> list[Any]:
    """The configuration of each layer: the model's own, unless its layers differ."""
    if not getattr(config, "is_heterogeneous", False):
        return [config] * layers
    return list(config.per_layer_config)


def setting(config: Any, *names: str, default: Any = None) -> Any:
    """The first of the settings that is set, the model's own where its layers differ."""
    for name in names:
        try:
            value = getattr(config, name, None)
        except RuntimeError:  # It differs by layer; transformers raises an error of its own.
            value = config._getattr_without_heterogeneous_validation(name, None)
        if value is not None:
            return value
    return default


def number(config: Any, *names: str, default: int, layer: int | None = None) -> int:
    """The first of the settings that is set; of a list, the value of a layer, or the largest."""
    value = setting(config, *names)
    if isinstance(value, list | tuple):
        numbers = [entry for entry in value if isinstance(entry, int)]
        value = value[layer] if layer is not None and layer < len(value) else max(numbers, default=None)
    return value if isinstance(value, int) else default


def embedded_tokens(model: Any) -> int | None:
    """How many tokens the model has embeddings of; None: it does not tell."""
    try:
        weights = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None
    return None if weights is None else int(weights.shape[0])
