"""Linear layers in 8 bits, for CPUs.

Weights have a scale for each output, inputs a scale and a middle for each token, both anew for every 384 inputs: large
values, which are few, then cost only their neighbours precision. No scale is of a whole batch, so that a prompt's score
does not depend on the prompts beside it. The products are exact in 32 bits.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from batchroute.errors import InputError

_GROUP = 384
"""Inputs that share a scale: fewer are more precise, and more work."""

_STEPS = 254
"""Between the least and the greatest input of a token: −127 to 127."""

_TINY = torch.finfo(torch.float32).tiny


class Int8Linear(nn.Module):
    """Takes the place of a linear layer in float32, for inference."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        self._groups = []
        for number, weight in enumerate(torch.split(linear.weight.detach(), _GROUP, dim=1)):
            self._groups.append(_Group(weight, bias if number == 0 else torch.zeros_like(bias)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        tokens = inputs.reshape(-1, inputs.shape[-1])
        parts = torch.split(tokens, _GROUP, dim=1)
        outputs = self._groups[0](parts[0])
        for group, part in zip(self._groups[1:], parts[1:], strict=True):
            outputs += group(part)
        return outputs.view(*inputs.shape[:-1], -1)


class _Group:
    """The weights of some inputs: [outputs, inputs]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self._scales = (weight.abs().amax(dim=1) / 127).clamp(min=_TINY)
        rounded = (weight / self._scales[:, None]).round()
        self._weight = torch.ops.onednn.qlinear_prepack(rounded.to(torch.int8), None)
        self._zero_points = torch.zeros(len(weight), dtype=torch.int32)
        # What a token's middle, the same in each of its inputs, and 1 are multiplied with.
        self._offsets = torch.stack([rounded.sum(dim=1) * self._scales, bias])

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """From [tokens, inputs] to [tokens, outputs]."""
        least, greatest = tokens.amin(dim=1, keepdim=True), tokens.amax(dim=1, keepdim=True)
        middles = (least + greatest) / 2
        steps = ((greatest - least) / _STEPS).clamp_(min=_TINY)
        rounded = (tokens - middles).div_(steps).round_().to(torch.int8)
        # What torch's own compiler makes of a quantised layer. Its one scale for all inputs is left at 1.
        products: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, 0, self._weight, self._scales, self._zero_points, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return products.mul_(steps).addmm_(torch.cat([middles, torch.ones_like(middles)], dim=1), self._offsets)


@torch.no_grad()
def quantize(model: PreTrainedModel) -> None:
    """Put 8 bits into the linear layers of the encoder. The head, which reads one token a prompt, stays as it is.

    Raises:
        InputError: there are none, or this machine's torch cannot multiply in 8 bits.
    """
    places = [
        (parent, name, child)
        for path, parent in model.base_model.named_modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and "pooler" not in path
    ]
    if not places:
        raise InputError(f"router.precision int8 is for encoders with linear layers: {type(model).__name__} has none")
    try:
        for parent, name, linear in places:
            setattr(parent, name, Int8Linear(linear))
        Int8Linear(places[0][2])(torch.zeros(1, places[0][2].in_features))
    except (RuntimeError, AttributeError) as error:
        raise InputError(
            "router.precision int8 needs a torch with oneDNN for this kind of CPU: leave it out"
        ) from error
