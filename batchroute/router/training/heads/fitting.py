"""Fitting heads: closed-form and boosted predictors of the label, by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batchroute.errors import InputError
from batchroute.router.heads.cheap import cheap
from batchroute.router.heads.features import Projection, Scale, TextParts
from batchroute.router.heads.members import Kernels, Trees, gaussian
from batchroute.router.heads.ngrams import BUCKETS, Codes, grams

Floats = NDArray[np.float32]

KINDS = ("kernel ridge", "support vectors", "boosted trees", "random trees")
"""The heads, in the order of `Fitted.predict`."""

_MOST_GRAMS, _LEAST_ROWS, _MOST_SHARE = 40_000, 3, 0.5
_DIMENSIONS = 128
_COMPONENTS = 64
MOST_CENTRES = 4_096
"""Training rows that kernels are put at: more would cost more than they teach."""

_GAMMA, _RIDGE = 0.3, 3.0
_SUPPORT: dict[str, float] = {"C": 0.3, "epsilon": 0.1}
_BOOSTED: dict[str, Any] = {
    "n_estimators": 150, "learning_rate": 0.05, "subsample": 0.5, "max_features": 0.1, "min_samples_leaf": 10,
    "max_depth": 4,
}  # fmt: skip
_RANDOM: dict[str, Any] = {"n_estimators": 200, "max_features": 0.3, "min_samples_leaf": 5}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What heads learn from: features of all rows, and what made them from prompts.

    Attributes:
        features: float32 [rows, width].
        rotation: float32 [width, inputs]: makes the inputs of trees, see `Ensemble`.
    """

    projection: Projection
    scale: Scale
    features: torch.Tensor
    rotation: torch.Tensor

    @classmethod
    def of(cls, prompts: Sequence[str], states: Floats) -> Inputs:
        """No label is read, so that all rows may be used before they are split into folds."""
        codes = Codes.of(prompts)
        projection = _projection(codes)
        parts = _parts(states, TextParts(projection.apply(grams(codes), len(prompts)), cheap(prompts, codes)))
        scale = Scale.of(parts)
        features = scale.apply([torch.from_numpy(part) for part in parts.values()])
        return cls(projection, scale, features, _rotation(features, [part.shape[1] for part in parts.values()]))

    def of_others(self, prompts: Sequence[str], states: Floats) -> torch.Tensor:
        """The features of other rows: float32 [rows, width]."""
        parts = _parts(states, TextParts.of(prompts, self.projection))
        return self.scale.apply([torch.from_numpy(part) for part in parts.values()])


def _parts(states: Floats, texts: TextParts) -> dict[str, Floats]:
    """By the names of `SHARES`."""
    half = states.shape[1] // 2
    return {"mean": states[:, :half], "first": states[:, half:], "text": texts.text, "cheap": texts.cheap}


@dataclass(frozen=True, slots=True)
class Fitted:
    kernels: Kernels
    trees: list[Trees]

    def predict(self, features: torch.Tensor, inputs: torch.Tensor) -> NDArray[np.float64]:
        """float64 [rows, heads]."""
        trees = [tree.predict(inputs)[:, None] for tree in self.trees]
        return torch.cat([self.kernels.predict(features), *trees], dim=1).double().numpy()


def fit(
    features: torch.Tensor,
    inputs: torch.Tensor,
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    seed: int,
) -> Fitted:
    """Fit all heads to some rows.

    Args:
        features: float32 [rows, width].
        inputs: float32 [rows, inputs]: the features rotated.
        targets: labels in [0, 1], shape [rows].
        weights: of the rows; their mean is 1.
    """
    _require_sklearn()
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(targets))[:MOST_CENTRES])
    centres = features[torch.from_numpy(rows)]
    mean = float(np.average(targets, weights=weights))
    kernel = gaussian(centres, centres, _GAMMA).double().numpy()
    if len(rows) == len(targets):
        ridge = _ridge(kernel, targets - mean, weights)
    else:
        ridge = _reduced_ridge(gaussian(features, centres, _GAMMA).numpy(), kernel, targets - mean, weights)
    support, intercept = _support(kernel, targets[rows], weights[rows])
    coefficients = torch.from_numpy(np.stack([ridge, support], axis=1).astype(np.float32))
    kernels = Kernels(centres, coefficients, torch.tensor([mean, intercept], dtype=torch.float32), _GAMMA)
    learned = inputs.numpy(), targets, weights, seed
    return Fitted(kernels, [_boosted(*learned), _random(*learned)])


def _ridge(kernel: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]) -> Any:
    from scipy.linalg import solve

    return solve(kernel + np.diag(_RIDGE / weights), targets, assume_a="pos", overwrite_a=True)


def _reduced_ridge(
    to_centres: Floats, kernel: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]
) -> Any:
    """Kernel ridge of more rows than centres ("subset of regressors")."""
    from scipy.linalg import solve

    weighted = to_centres * weights[:, None].astype(np.float32)
    matrix = (to_centres.T @ weighted).astype(np.float64) + _RIDGE * kernel + 1e-3 * np.eye(len(kernel))
    return solve(matrix, weighted.T.astype(np.float64) @ targets, assume_a="pos", overwrite_a=True)


def _support(
    kernel: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Support vector regression: a coefficient for each row, and the intercept."""
    from sklearn.svm import SVR

    machine = SVR(kernel="precomputed", **_SUPPORT).fit(kernel, targets, sample_weight=weights)
    coefficients = np.zeros(len(targets))
    coefficients[machine.support_] = machine.dual_coef_[0]
    return coefficients, float(machine.intercept_[0])


def _boosted(inputs: Floats, targets: NDArray[np.float64], weights: NDArray[np.float64], seed: int) -> Trees:
    from sklearn.ensemble import GradientBoostingRegressor

    machine = GradientBoostingRegressor(**_BOOSTED, random_state=seed).fit(inputs, targets, sample_weight=weights)
    trees = [estimator.tree_ for estimator in machine.estimators_[:, 0]]
    return _exported(trees, machine.learning_rate, float(machine.init_.constant_.item()))


def _random(inputs: Floats, targets: NDArray[np.float64], weights: NDArray[np.float64], seed: int) -> Trees:
    """Extremely randomised trees: they keep to their rows, and average much noise away."""
    from sklearn.ensemble import ExtraTreesRegressor

    machine = ExtraTreesRegressor(**_RANDOM, random_state=seed).fit(inputs, targets, sample_weight=weights)
    return _exported([estimator.tree_ for estimator in machine.estimators_], 1.0 / len(machine.estimators_), 0.0)


def _exported(trees: Sequence[Any], factor: float, base: float) -> Trees:
    """scikit-learn's trees as tensors, each as long as the largest. Their leaves' values are multiplied by `factor`."""
    nodes = max(tree.node_count for tree in trees)
    itself = np.arange(nodes)

    def padded(values: Sequence[NDArray[Any]], kind: type, fill: NDArray[Any] | float = 0) -> torch.Tensor:
        array = np.empty((len(values), nodes), kind)
        array[:] = fill
        for row, some in zip(array, values, strict=True):
            row[: len(some)] = some
        return torch.from_numpy(array)

    def children(side: str) -> torch.Tensor:
        # scikit-learn marks a leaf by a child of −1; here a leaf is its own child.
        found = [getattr(tree, f"children_{side}") for tree in trees]
        return padded([np.where(child < 0, itself[: len(child)], child) for child in found], np.int32, itself)

    return Trees(
        feature=padded([np.maximum(tree.feature, 0) for tree in trees], np.int32),
        # Rounded down: a feature in float32 compares with it as with the original in float64.
        threshold=padded([_down(tree.threshold) for tree in trees], np.float32),
        left=children("left"),
        right=children("right"),
        value=padded([tree.value[:, 0, 0] * factor for tree in trees], np.float32),
        base=base,
        depth=max(tree.max_depth for tree in trees),
    )


def _rotation(features: torch.Tensor, widths: list[int]) -> torch.Tensor:
    """Principal components of the mean states, the first directions of the text, and the cheap features as they are."""
    mean, first, text, cheap_width = widths
    states = features[:, :mean]
    _, _, components = torch.linalg.svd(states - states.mean(dim=0), full_matrices=False)
    components = components[:_COMPONENTS]
    kept = min(_COMPONENTS, text)
    rotation = torch.zeros(sum(widths), len(components) + kept + cheap_width)
    rotation[:mean, : len(components)] = components.T
    at = mean + first
    rotation[at : at + kept, len(components) : len(components) + kept] = torch.eye(kept)
    rotation[at + text :, len(components) + kept :] = torch.eye(cheap_width)
    return rotation


def _down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    rounded = thresholds.astype(np.float32)
    down: NDArray[np.float32] = np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    return down


def _projection(codes: Codes) -> Projection:
    """The directions in which the TF-IDF of training prompts varies most: a truncated singular value decomposition."""
    _require_sklearn()
    from scipy.sparse import csr_matrix
    from sklearn.utils.extmath import randomized_svd

    found = grams(codes)
    texts = np.bincount(found.number, minlength=BUCKETS)
    usable = np.flatnonzero((texts >= min(_LEAST_ROWS, codes.texts)) & (texts <= max(1, _MOST_SHARE * codes.texts)))
    # The most frequent ones; of equally frequent ones those of lower number.
    numbers = np.sort(usable[np.argsort(-texts[usable], kind="stable")[:_MOST_GRAMS]])
    idf = (np.log((1 + codes.texts) / (1 + texts[numbers])) + 1).astype(np.float32)
    width = min(_DIMENSIONS, len(numbers) // 2, codes.texts // 2)
    if width == 0:
        return Projection(np.zeros(1, np.int32), np.ones(1, np.float32), torch.zeros(1, 1))
    bare = Projection(numbers.astype(np.int32), idf, torch.zeros(len(numbers), 1))
    text, column, weights = bare.weights(found, codes.texts)
    matrix = csr_matrix((weights, (text, column)), shape=(codes.texts, len(numbers)))
    _, _, directions = randomized_svd(matrix, width, n_iter=2, power_iteration_normalizer="QR", random_state=0)
    # As they are kept in the file.
    kept = torch.from_numpy(np.ascontiguousarray(directions.T)).half().float()
    return Projection(bare.numbers, idf, kept)


def _require_sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise InputError(
            "training heads needs scikit-learn: pip install 'batchroute[train]', or pass --method finetune"
        ) from error
