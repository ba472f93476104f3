"""Fitting heads: kernel ridge, and randomised trees by scikit-learn.

One response a model makes a label mostly luck. Where the table names each row's task, two more heads learn the mean
label of its task instead, which is hardly luck: they tell how a prompt's kind does, the other two how it differs.
"""

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
Doubles = NDArray[np.float64]

KINDS = ("kernel ridge", "kernel ridge of tasks", "random trees", "random trees of tasks")
"""The heads, in the order of `Fitted.predict`."""

_MOST_GRAMS, _LEAST_ROWS, _MOST_SHARE = 40_000, 3, 0.5
_DIMENSIONS = 128
_COMPONENTS = 64
MOST_CENTRES = 4_096
"""Training rows that kernels are put at: more would cost more than they teach."""

_GAMMA, _RIDGE, _TASK_RIDGE = 0.3, 3.0, 0.1
_ROUNDING = 1e-4
_TREES: dict[str, Any] = {"n_estimators": 200, "max_features": 0.3, "min_samples_leaf": 5}
_TASK_TREES: dict[str, Any] = {"n_estimators": 100, "max_features": 0.3, "min_samples_leaf": 2}
_TASK_PRIOR = 5.0
"""A task's mean is drawn towards that of all rows, as if so many more had been seen."""


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

    def predict(self, features: torch.Tensor, inputs: torch.Tensor) -> Doubles:
        """float64 [rows, heads]."""
        trees = [tree.predict(inputs)[:, None] for tree in self.trees]
        return torch.cat([self.kernels.predict(features), *trees], dim=1).double().numpy()


@dataclass(frozen=True, slots=True)
class Lesson:
    """The rows that heads learn from.

    Attributes:
        features: float32 [rows, width].
        inputs: float32 [rows, inputs]: the features rotated.
        targets: labels in [0, 1]: float64 [rows].
        weights: of the rows, 1 on average: float64 [rows].
        tasks: a number for each row's task, from 0; None where the table names none.
    """

    features: torch.Tensor
    inputs: torch.Tensor
    targets: Doubles
    weights: Doubles
    tasks: NDArray[np.intp] | None = None

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the heads that are fitted to these rows."""
        return KINDS[::2] if self.tasks is None else KINDS

    def take(self, rows: NDArray[np.intp]) -> Lesson:
        tasks = None if self.tasks is None else self.tasks[rows]
        return Lesson(self.features[rows], self.inputs[rows], self.targets[rows], self.weights[rows], tasks)

    @property
    def task_means(self) -> Doubles | None:
        """The mean label of each row's task: float64 [rows]."""
        if self.tasks is None:
            return None
        mean = np.average(self.targets, weights=self.weights)
        sums = np.bincount(self.tasks, self.weights * self.targets) + _TASK_PRIOR * mean
        means: Doubles = sums / (np.bincount(self.tasks, self.weights) + _TASK_PRIOR)
        return means[self.tasks]


def numbered(tasks: Sequence[str | None] | None) -> NDArray[np.intp] | None:
    """A number for each row's task; None where no task, or only one, is named."""
    if tasks is None or len(set(tasks)) < 2:
        return None
    _, numbers = np.unique(np.array([task or "" for task in tasks], dtype=object), return_inverse=True)
    return numbers


def fit(lesson: Lesson, seed: int) -> Fitted:
    """Fit all heads to some rows.

    Args:
        seed: of the centres where there are more rows than `MOST_CENTRES`, and of the trees.

    Raises:
        InputError: scikit-learn is not installed.
    """
    _require_sklearn()
    rows = np.sort(np.random.default_rng(seed).permutation(len(lesson.targets))[:MOST_CENTRES])
    centres, task_means = lesson.features[rows], lesson.task_means
    ridge = _Ridge.of(lesson, centres)
    solved = [ridge.solve(lesson.targets, _RIDGE)]
    trees = [_random(lesson, lesson.targets, _TREES, seed)]
    if task_means is not None:
        solved.append(ridge.solve(task_means, _TASK_RIDGE))
        trees.append(_random(lesson, task_means, _TASK_TREES, seed))
    coefficients = np.stack([own for own, _ in solved], axis=1).astype(np.float32)
    intercepts = torch.tensor([mean for _, mean in solved], dtype=torch.float32)
    return Fitted(Kernels(centres, torch.from_numpy(coefficients), intercepts, _GAMMA), trees)


@dataclass(frozen=True, slots=True)
class _Ridge:
    """Kernel ridge at some centres, for several targets.

    Attributes:
        kernel: between the centres: float64 [centres, centres].
        rows: between all rows and the centres, float32 [rows, centres]; None where each row is a centre.
    """

    kernel: Doubles
    rows: Floats | None
    weights: Doubles

    @classmethod
    def of(cls, lesson: Lesson, centres: torch.Tensor) -> _Ridge:
        kernel = gaussian(centres, centres, _GAMMA).double().numpy()
        whole = len(centres) == len(lesson.features)
        return cls(kernel, None if whole else gaussian(lesson.features, centres, _GAMMA).numpy(), lesson.weights)

    def solve(self, targets: Doubles, penalty: float) -> tuple[Doubles, float]:
        """A coefficient for each centre, and what is added to their sum."""
        from scipy.linalg import solve

        mean = float(np.average(targets, weights=self.weights))
        if self.rows is None:
            matrix, right = self.kernel + np.diag(penalty / self.weights), targets - mean
        else:
            # Of more rows than centres: the "subset of regressors". Products in float32 are rounded,
            # so more than their error is added to the diagonal: negative eigenvalues would leave no solution.
            weighted = self.rows * self.weights[:, None].astype(np.float32)
            matrix = (self.rows.T @ weighted).astype(np.float64) + penalty * self.kernel
            matrix[np.diag_indices_from(matrix)] += _ROUNDING * matrix.diagonal().max()
            right = weighted.T.astype(np.float64) @ (targets - mean)
        coefficients: Doubles = solve(matrix, right, assume_a="pos", overwrite_a=True)
        return coefficients, mean


def _random(lesson: Lesson, targets: Doubles, settings: dict[str, Any], seed: int) -> Trees:
    """Extremely randomised trees (Geurts et al., Machine Learning 63, 2006): their mean leaves much noise behind."""
    from sklearn.ensemble import ExtraTreesRegressor

    machine = ExtraTreesRegressor(**settings, random_state=seed, n_jobs=-1)
    machine.fit(lesson.inputs.numpy(), targets, sample_weight=lesson.weights)
    return _exported([estimator.tree_ for estimator in machine.estimators_], 1.0 / len(machine.estimators_))


def _exported(trees: Sequence[Any], factor: float) -> Trees:
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
        base=0.0,
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
