"""Layers of the Llama family on a CPU: the same arithmetic as transformers' layers, in fewer passes over memory.

Weights are packed once in the layout that oneDNN multiplies by, where a plain product packs them again at each call.
The MLP's activation and gate and both residual sums are part of the products, and norms and rotary embeddings take half
the passes. Price: without plain weights a layer can neither be trained nor saved, and an output matrix that is also the
embeddings is kept twice.

transformers' own layer is replaced only if it has these parts and no others, and if both answer a sample alike. So
there is no list of architectures: layers that scale, gate or normalise otherwise differ at once, and stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_INPUTS = ("q_proj", "k_proj", "v_proj")
_PROJECTIONS = {*_INPUTS, "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj"}
# Rows of the product that the layout is chosen for: those of a decoding step. It serves all others.
_ROWS = 64
_SAMPLE_TOKENS = 4
# The largest difference of two layers' answers, as a share of the largest number. A wrong formula differs by far more.
_ALIKE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


@torch.inference_mode()
def pack(model: Any) -> int:
    """Replace the layers of a decoder on a CPU, and its output matrix, by packed ones; returns how many were."""
    layers = getattr(model.base_model, "layers", None)
    rotary = getattr(model.base_model, "rotary_emb", None)
    if not _can_pack(model) or not isinstance(layers, nn.ModuleList) or rotary is None:
        return 0
    packed = 0
    for index, layer in enumerate(layers):
        if _known(layer):
            new = PackedLayer(layer)
            if _alike(layer, new, model, rotary):
                layers[index] = new
                packed += 1
    head = getattr(model, "lm_head", None)
    if packed and type(head) is nn.Linear:
        model.lm_head = Product(head)
    return packed


def is_packed(model: Any) -> bool:
    """Whether all layers of the model are packed ones."""
    layers = getattr(model.base_model, "layers", ())
    return bool(layers) and all(type(layer) is PackedLayer for layer in layers)


def _can_pack(model: Any) -> bool:
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    # They are torch's own and not public: another version may lack them.
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        return False
    if getattr(model, "is_quantized", False) or getattr(model, "hf_device_map", None):
        return False
    known = {torch.float32} | ({torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set())
    return model.dtype in known and model.config.get_text_config()._attn_implementation == "sdpa"


def _known(layer: nn.Module) -> bool:
    """Whether the layer has the parts of Llama's, and biases, weights and norms in the usual places."""
    if {name for name, _ in layer.named_children()} != _PARTS:
        return False
    inner = layer.get_submodule("self_attn")
    attention, mlp = dict(inner.named_children()), dict(layer.get_submodule("mlp").named_children())
    linear = [attention.get(name) for name in (*_INPUTS, "o_proj")] + [mlp.get(name) for name in _MLP]
    norms = [layer.input_layernorm, layer.post_attention_layernorm, *(attention.get(name) for name in _HEAD_NORMS)]
    return (
        _PROJECTIONS <= attention.keys() <= _PROJECTIONS | _HEAD_NORMS
        and mlp.keys() - {"act_fn"} == _MLP
        and all(type(part) is nn.Linear for part in linear)
        and len({getattr(part, "bias", None) is None for part in linear[:3]}) == 1
        and all(norm is None or (hasattr(norm, "weight") and hasattr(norm, "variance_epsilon")) for norm in norms)
        and all(hasattr(inner, name) for name in ("layer_idx", "head_dim", "scaling", "config"))
    )


def _alike(layer: nn.Module, new: nn.Module, model: Any, rotary: Any) -> bool:
    """Whether both layers answer the same to some tokens, up to rounding."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, _SAMPLE_TOKENS, model.config.get_text_config().hidden_size, generator=generator)
    hidden = hidden.to(model.dtype)
    positions = torch.arange(3, 3 + _SAMPLE_TOKENS)[None]
    try:
        at = rotary(hidden, positions)
        answers = []
        for one in (layer, new):
            answer = one(hidden, position_embeddings=at, position_ids=positions, attention_mask=None)
            answers.append((answer[0] if isinstance(answer, tuple) else answer).float())
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError):
        return False
    largest = float((answers[0] - answers[1]).abs().max() / answers[0].abs().max())
    return largest <= _ALIKE[model.dtype]


class Product(nn.Module):
    """A linear layer with packed weights."""

    def __init__(self, *linear: nn.Linear) -> None:
        """
        Args:
            linear: several have the same input, all have a bias or none; their products stand one behind the other.
        """
        super().__init__()
        weight = torch.cat([one.weight.detach() for one in linear])
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self._bias = None if linear[0].bias is None else torch.cat([one.bias.detach() for one in linear])

    def forward(self, inputs: torch.Tensor, activation: str = "none") -> torch.Tensor:
        """The product of inputs [..., in], and then the activation."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, activation, [], "")
        return product

    def with_other(self, inputs: torch.Tensor, other: torch.Tensor, sign: str) -> torch.Tensor:
        """The product of inputs [..., in], and then `add` or `mul` with another tensor [..., out]."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(inputs, other, self._weight, self._bias, sign)
        return product


class _Norm(nn.Module):
    """A norm by the root mean square, over the last dimension."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self._weight, self._epsilon = norm.weight.detach(), norm.variance_epsilon

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        wide = inputs.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(wide.shape[-1])
        normed: torch.Tensor = (wide * scale.add_(self._epsilon).rsqrt_()).to(inputs.dtype)
        return normed.mul_(self._weight)


class PackedLayer(nn.Module):
    """A layer of the Llama family; it is called as transformers' own is."""

    # What transformers' attention functions read of the module that they are given.
    is_causal = True

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.layer_idx: int = attention.layer_idx
        self.config = attention.config
        self.attention_type = getattr(layer, "attention_type", None)
        self.sliding_window = getattr(attention, "sliding_window", None)
        self.scaling: float = attention.scaling
        self._dim: int = attention.head_dim
        self.num_key_value_groups = attention.q_proj.out_features // attention.k_proj.out_features
        keys, values = (part.out_features // self._dim for part in (attention.k_proj, attention.v_proj))
        self._heads = [attention.q_proj.out_features // self._dim, keys, values]
        self._read = Product(*(getattr(attention, name) for name in _INPUTS))
        self._out = Product(attention.o_proj)
        self._query_norm, self._key_norm = (
            _Norm(getattr(attention, name)) if hasattr(attention, name) else None for name in ("q_norm", "k_norm")
        )
        self._before_attention, self._before_mlp = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self._gate, self._up, self._down = Product(mlp.gate_proj), Product(mlp.up_proj), Product(mlp.down_proj)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        position_embeddings: Any = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """The hidden states [rows, tokens, hidden] after this layer."""
        cos, sin = (part[..., None, : self._dim // 2] for part in position_embeddings)
        heads = self._read(self._before_attention(hidden_states)).unflatten(-1, (-1, self._dim))
        query, key, value = torch.split(heads, self._heads, dim=-2)
        if self._query_norm is not None and self._key_norm is not None:
            turned = torch.cat([self._query_norm(query), self._key_norm(key)], dim=-2)
        else:
            turned = heads[..., : -value.shape[-2], :]
        query, key = torch.split(_rotated(turned, cos, sin).transpose(1, 2), self._heads[:2], dim=1)
        value = value.transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
            if getattr(past_key_values, "ends_at", None) == self.layer_idx:
                # The call is for keys and values alone.
                return hidden_states
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        if self.sliding_window is not None:
            kwargs["sliding_window"] = self.sliding_window
        seen, _ = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        hidden = self._out.with_other(seen.reshape(*hidden_states.shape[:-1], -1), hidden_states, "add")
        read = self._before_mlp(hidden)
        gated = self._up.with_other(read, self._gate(read, "swish"), "mul")
        return self._down.with_other(gated, hidden, "add")


def _rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Queries or keys [rows, tokens, heads, dim], turned by their positions: cos, sin [rows, tokens, 1, dim / 2]."""
    one, two = heads.chunk(2, dim=-1)
    turned = torch.empty_like(heads)
    first, second = turned.chunk(2, dim=-1)
    torch.mul(one, cos, out=first).addcmul_(two, sin, value=-1)
    torch.mul(two, cos, out=second).addcmul_(one, sin)
    return turned
