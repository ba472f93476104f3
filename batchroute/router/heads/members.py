"""The heads: each predicts a prompt's label from its features.

A head is tensors and a few numbers, so that scoring needs torch alone, on a CPU or a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class Kernels:
    """Heads that are weighted sums of Gaussian kernels at shared centres, such as kernel ridge.

    Attributes:
        centres: float32 [centres, width]: features of training rows.
        coefficients: float32 [centres, heads].
        intercepts: float32 [heads].
        gamma: of the kernel exp(−gamma · d²).
    """

    centres: torch.Tensor
    coefficients: torch.Tensor
    intercepts: torch.Tensor
    gamma: float

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """float32 [rows, heads]."""
        return gaussian(features, self.centres, self.gamma) @ self.coefficients + self.intercepts

    def to(self, device: torch.device) -> Kernels:
        centres, coefficients = self.centres.to(device), self.coefficients.to(device)
        return Kernels(centres, coefficients, self.intercepts.to(device), self.gamma)


def gaussian(first: torch.Tensor, second: torch.Tensor, gamma: float) -> torch.Tensor:
    """exp(−gamma · d²) of all pairs: [rows of first, rows of second]."""
    squares = first.square().sum(dim=1, keepdim=True) + second.square().sum(dim=1)
    distances = torch.addmm(squares, first, second.T, alpha=-2.0).clamp_(min=0.0)
    return distances.mul_(-gamma).exp_()


@dataclass(slots=True)
class Trees:
    """A head that is a sum of regression trees.

    Attributes:
        feature: int32 [trees, nodes]: the feature that a node asks for.
        threshold: float32 [trees, nodes]: a feature up to this goes left.
        left, right: int32 [trees, nodes]; of a leaf, the leaf itself.
        value: float32 [trees, nodes]: what a leaf adds.
        base: what all trees add to.
        depth: steps from a root to the deepest leaf.
    """

    feature: torch.Tensor
    threshold: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    value: torch.Tensor
    base: float
    depth: int

    @staticmethod
    def names() -> tuple[str, ...]:
        return "feature", "threshold", "left", "right", "value"

    def arrays(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name) for name in self.names()}

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """float32 [rows]."""
        count, nodes = self.feature.shape
        # One long row of nodes: plain indexing is faster than by tree and node.
        feature, threshold, left, right, value = (array.flatten() for array in self.arrays().values())
        root = torch.arange(0, count * nodes, nodes, dtype=torch.int32, device=features.device)
        node = root.expand(len(features), -1)
        for _ in range(self.depth):
            asked = features.gather(1, feature[node].long())
            node = root + torch.where(asked <= threshold[node], left[node], right[node])
        return self.base + value[node].sum(dim=1)

    def to(self, device: torch.device) -> Trees:
        arrays = {name: array.to(device) for name, array in self.arrays().items()}
        return Trees(**arrays, base=self.base, depth=self.depth)
