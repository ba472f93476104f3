"""A running average of the model's weights, which routes better than the weights of any single step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

_DECAY = 0.99


class Average:
    """An exponential moving average over about a hundred steps. Costs one copy of the weights in memory.

    Fine-tuning on a few thousand noisy labels jumps from step to step; the average does not ("Mean teachers are better
    role models", arXiv 1703.01780).
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._steps = 0
        self._weights = {name: weights.detach().clone() for name, weights in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights after a step. The average follows the first steps faster, so that it forgets the start."""
        self._steps += 1
        decay = min(_DECAY, self._steps / (9 + self._steps))
        for name, weights in self._model.named_parameters():
            self._weights[name].lerp_(weights, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block, the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, object]:
        return {"steps": self._steps, "weights": self._weights}

    def load_state_dict(self, state: dict[str, object]) -> None:
        weights = state["weights"]
        assert isinstance(weights, dict)
        self._steps = int(str(state["steps"]))
        for name, own in self._weights.items():
            own.copy_(weights[name])

    def _swap(self) -> None:
        for name, weights in self._model.named_parameters():
            weights.data, self._weights[name] = self._weights[name], weights.data
