"""Linear layers in 8 bits, for CPUs.

Weights have a scale for each output, inputs a scale and a middle for each token, separately for each group of 384
inputs: the few large values then cost precision in their own group alone. No scale spans a batch, so a prompt's score
does not depend on the other prompts in its batch. Products are summed exactly in 32 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from batchroute.errors import InputError

if TYPE_CHECKING:
    from batchroute.router.loading import Model

_GROUP = 384
"""Inputs that share a scale; smaller groups are more precise and slower."""

_STEPS = 254
"""Steps between the least and the greatest input of a token: −127 to 127."""

_ZERO = 128
"""Added to the steps. Without AMX, oneDNN takes a thousand times as long for signed inputs as for unsigned ones."""

_TINY = torch.finfo(torch.float32).tiny

_NO_PRODUCTS = "router.precision int8 needs a torch with oneDNN and a CPU with VNNI or AMX: leave it out"


class Int8Linear(nn.Module):
    """Replaces a float32 linear layer for inference.

    Args:
        inputs: shared by layers that read the same inputs in turn, such as query, key and value.
    """

    def __init__(self, linear: nn.Linear, inputs: Inputs | None = None) -> None:
        super().__init__()
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        self._inputs = inputs or Inputs()
        weights = torch.split(linear.weight.detach(), self._inputs.group, dim=1)
        self._groups = [_Weights.of(weight) for weight in weights]
        # A token's middle is the same for all inputs of a group, so it is multiplied with the sum of their weights;
        # the last row is the bias.
        self._offsets = torch.stack([*(weights.sums for weights in self._groups), bias])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rounded = self._inputs.rounded(inputs)
        outputs = self._groups[0].products(rounded[0])
        for weights, part in zip(self._groups[1:], rounded[1:], strict=True):
            outputs += weights.products(part)
        middles = [part.middle for part in rounded]
        outputs.addmm_(torch.cat([*middles, torch.ones_like(middles[0])], dim=1), self._offsets)
        return outputs.view(*inputs.shape[:-1], -1)


class Inputs:
    """Rounds inputs once for all layers that read them, in groups."""

    def __init__(self, layers: int = 1, group: int = _GROUP) -> None:
        self._layers, self._left, self.group = layers, 0, group
        self._last: torch.Tensor | None = None
        self._rounded: list[_Rounded] = []

    def rounded(self, inputs: torch.Tensor) -> list[_Rounded]:
        """One entry for each group of `inputs`, which have the shape [..., inputs]."""
        if inputs is not self._last:
            groups = torch.split(inputs.reshape(-1, inputs.shape[-1]), self.group, dim=1)
            self._last, self._rounded, self._left = inputs, [_Rounded.of(group) for group in groups], self._layers
        rounded, self._left = self._rounded, self._left - 1
        if not self._left:
            # Freed at once, so that the next ones reuse the same memory in the CPU's caches.
            self._last, self._rounded = None, []
        return rounded


class _Rounded(NamedTuple):
    """Rounded inputs of one group: `middle + step × steps`.

    Attributes:
        middle, step: [tokens, 1].
        steps: 8 bits, [tokens, inputs]; `_ZERO` more than they are.
    """

    middle: torch.Tensor
    step: torch.Tensor
    steps: torch.Tensor

    @classmethod
    def of(cls, tokens: torch.Tensor) -> _Rounded:
        least, greatest = tokens.amin(dim=1, keepdim=True), tokens.amax(dim=1, keepdim=True)
        middle, step = (least + greatest) / 2, ((greatest - least) / _STEPS).clamp_(min=_TINY)
        return cls(middle, step, (tokens - middle).mul_(1 / step).round_().add_(_ZERO).to(torch.uint8))


class _Weights(NamedTuple):
    """The weights of one group of inputs.

    Attributes:
        packed: in 8 bits, in oneDNN's layout.
        scales, zero_points, sums: [outputs]; `sums` add the weights up over the inputs.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor
    sums: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> _Weights:
        scales = (weight.abs().amax(dim=1) / 127).clamp(min=_TINY)
        rounded = (weight / scales[:, None]).round()
        packed = torch.ops.onednn.qlinear_prepack(rounded.to(torch.int8), None)
        return cls(packed, scales, torch.zeros(len(weight), dtype=torch.int32), rounded.sum(dim=1) * scales)

    def products(self, inputs: _Rounded) -> torch.Tensor:
        """Products with the inputs less their middles: [tokens, outputs]."""
        # The operator that torch's compiler emits for a quantised layer. Its single scale for all inputs stays 1.
        scales = 1.0, _ZERO, self.packed, self.scales, self.zero_points
        products: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            inputs.steps, *scales, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return products.mul_(inputs.step)


@torch.no_grad()
def quantize(model: Model) -> None:
    """Replace the linear layers of the encoder. The head, which reads one token per prompt, stays as it is.

    Raises:
        InputError: the encoder has no linear layers, or torch cannot multiply in 8 bits on this machine.
    """
    encoder = [parent for path, parent in model.base_model.named_modules() if "pooler" not in path]
    replaced = [(parent, _linear(parent)) for parent in encoder]
    first = next((linear for _, layers in replaced for _, linear in layers), None)
    if first is None:
        raise InputError(f"router.precision int8 is for encoders with linear layers: {type(model).__name__} has none")
    try:
        exact = _exact()
        for parent, layers in replaced:
            inputs = Inputs(len(layers))
            for name, linear in layers:
                setattr(parent, name, Int8Linear(linear, inputs))
        Int8Linear(first)(torch.zeros(1, first.in_features))
    except (RuntimeError, AttributeError) as error:
        raise InputError(_NO_PRODUCTS) from error
    if not exact:
        raise InputError(_NO_PRODUCTS)


def _exact() -> bool:
    """Whether the largest products are summed exactly. CPUs without VNNI or AMX cut sums of two products at 16 bits."""
    weights = _Weights.of(torch.full((1, _GROUP), 127.0))
    one = torch.ones(1, 1)
    steps = torch.full((1, _GROUP), _ZERO + 127, dtype=torch.uint8)
    return weights.products(_Rounded(one, one, steps)).item() == 127 * 127 * _GROUP


def _linear(parent: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, child) for name, child in parent.named_children() if isinstance(child, nn.Linear)]
