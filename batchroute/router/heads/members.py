"""The heads: each predicts a prompt's label from its features.

A head is tensors and a few numbers, so that scoring needs torch alone, on a CPU or a GPU.

One response a model makes a label mostly luck, and the mean label of a task hardly luck at all. So where the table
names tasks, one head guesses the task of a prompt and gives that task's mean; the others tell how a prompt differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_SHARPNESS = 8.0
"""Kernel ridge draws its votes for tasks towards their shares; so sharpened they are close to probabilities."""

_TASKS_WEIGHT = 2.0


@dataclass(slots=True)
class Members:
    """All heads of a router.

    Attributes:
        kernels: column 0 predicts the label; the others, one for each task, vote for that task.
        tasks: float32 [tasks]: the mean label of each task; None without that head.
        trees: predict the label.
    """

    kernels: Kernels
    tasks: torch.Tensor | None
    trees: Trees

    def predict(self, features: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Each head's prediction: float32 [rows, heads], in the order kernels, tasks, trees.

        Args:
            inputs: of the trees.
        """
        columns = self.kernels.predict(features)
        found = [columns[:, 0], self.trees.predict(inputs)]
        if self.tasks is not None:
            found.insert(1, (columns[:, 1:] * _SHARPNESS).softmax(dim=1) @ self.tasks)
        return torch.stack(found, dim=1)

    def to(self, device: torch.device) -> Members:
        tasks = None if self.tasks is None else self.tasks.to(device)
        return Members(self.kernels.to(device), tasks, self.trees.to(device))


def weights_of(heads: int) -> torch.Tensor:
    """How much each of two or three heads counts in their mean, adding up to 1: float32 [heads]."""
    weights = torch.tensor([1.0, 1.0] if heads == 2 else [1.0, _TASKS_WEIGHT, 1.0])
    return weights / weights.sum()


def combined(members: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean and standard deviation of the heads' predictions: shape [rows]."""
    weights = weights_of(members.shape[1]).to(members)
    mean = members @ weights
    return mean, ((members - mean[:, None]).square() @ weights).sqrt()


@dataclass(slots=True)
class Kernels:
    """Weighted sums of Gaussian kernels at shared centres, such as kernel ridge.

    Attributes:
        centres: float32 [centres, width]: features of training rows.
        coefficients: float32 [centres, columns].
        intercepts: float32 [columns].
        gamma: of the kernel exp(−gamma · d²).
    """

    centres: torch.Tensor
    coefficients: torch.Tensor
    intercepts: torch.Tensor
    gamma: float

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """float32 [rows, columns]."""
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
        depth: steps from a root to the deepest leaf.
    """

    feature: torch.Tensor
    threshold: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    value: torch.Tensor
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
        return value[node].sum(dim=1)

    def to(self, device: torch.device) -> Trees:
        arrays = {name: array.to(device) for name, array in self.arrays().items()}
        return Trees(**arrays, depth=self.depth)
