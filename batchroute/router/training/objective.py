"""The training objective: predict each prompt's label, and as auxiliary targets the quality of each model."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from batchroute.errors import InputError
from batchroute.router.labels import Labels
from batchroute.tables.quality_table import QualityTable

# Weight of each quality's loss; the label has 1. Weights from 0.5 to 2 made no measurable difference.
_AUXILIARY_WEIGHT = 0.5
_QUALITY_PERCENTILES = (1.0, 99.0)


class Objective(nn.Module):
    """A classifier with one logit, plus two auxiliary logits from the same features during training.

    The gap is a difference of two noisy figures, each of which is easier to learn alone. An encoder that must also
    predict q(S) and q(L) over-fits the label later. Only the plain classifier is saved.

    Args:
        model: a sequence classifier with one logit.

    Raises:
        InputError: the model makes its logit without a linear layer.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        head = _last_linear(model)
        self.auxiliary = nn.Linear(head.in_features, 2)
        nn.init.normal_(self.auxiliary.weight, std=0.02)
        nn.init.zeros_(self.auxiliary.bias)
        self._features: torch.Tensor | None = None
        head.register_forward_pre_hook(self._note_features)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits of the label, q(S) and q(L): float32, shape [rows, 3]."""
        logits: torch.Tensor = self.model(**inputs).logits
        features, self._features = self._features, None
        assert features is not None
        if features.ndim == 3:
            # A decoder's head reads every token: take the mean over tokens.
            features = features.mean(dim=1)
        return torch.cat([logits, self.auxiliary(features)], dim=1).float()

    def _note_features(self, head: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._features = inputs[0]


class Targets:
    """Targets of training rows (label, q(S), q(L)): float32, shape [rows, 3], each in [0, 1].

    Attributes:
        weights: of the rows in the loss; their mean is 1.
    """

    def __init__(self, values: torch.Tensor, weights: torch.Tensor) -> None:
        self.values, self.weights = values, weights

    @classmethod
    def of(cls, labels: Labels, table: QualityTable, device: torch.device) -> Self:
        """Each quality is scaled to [0, 1] by its own percentiles, whatever its unit."""
        label = labels.apply(table.small, table.large).astype(np.float64)
        columns = np.stack([label, _stretched(table.small_mean), _stretched(table.large_mean)], axis=1)
        weights = np.ones(len(table)) if table.weights is None else table.weights / table.weights.mean()
        return cls(*(torch.from_numpy(array.astype(np.float32)).to(device) for array in (columns, weights)))

    def loss(self, logits: torch.Tensor, rows: NDArray[np.intp]) -> torch.Tensor:
        """Binary cross-entropy with soft targets: shape [rows]."""
        at = torch.from_numpy(rows).to(self.values.device)
        wanted = self.values[at]
        losses = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return self.weights[at] * (losses[:, 0] + _AUXILIARY_WEIGHT * losses[:, 1:].sum(dim=1))


def _stretched(quality: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.percentile(quality, _QUALITY_PERCENTILES)
    if low == high:
        low, high = quality.min(), max(quality.max(), quality.min() + 1.0)
    stretched: NDArray[np.float64] = np.clip((quality - low) / (high - low), 0.0, 1.0)
    return stretched


def _last_linear(model: nn.Module) -> nn.Linear:
    """The layer that makes the logit, whatever its name in this architecture."""
    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1]
    if not heads:
        raise InputError(
            f"a {type(model).__name__} cannot be trained here: it has no linear layer that makes its one logit; take "
            "another base"
        )
    return heads[-1]
