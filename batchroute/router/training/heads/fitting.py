"""Fitting heads: kernel ridge, kernel votes for the tasks, and randomised trees by scikit-learn."""

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
from batchroute.router.heads.members import Kernels, Members, Trees, gaussian
from batchroute.router.heads.ngrams import BUCKETS, Codes, grams

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

KINDS = ("kernel ridge", "task means", "random trees")
"""The heads, in the order of `Members.predict`."""

_MOST_GRAMS, _LEAST_ROWS, _MOST_SHARE = 40_000, 3, 0.5
_DIMENSIONS = 128
_COMPONENTS = 64
MOST_CENTRES = 4_096
"""Training rows that kernels are put at: more would cost more than they teach."""

_GAMMA, _RIDGE, _TASK_RIDGE = 0.3, 3.0, 0.1
_ROUNDING = 1e-4
_TREES: dict[str, Any] = {"n_estimators": 150, "max_features": 0.2, "min_samples_leaf": 5}
_TASK_PRIOR = 5.0
"""A task's mean is drawn towards that of all rows, as if so many more had been seen."""

_LEAST_TASK_ROWS, _MOST_TASKS = 5, 200


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


def numbered(tasks: Sequence[str | None] | None) -> NDArray[np.intp] | None:
    """A number for each row's task; rare tasks share one. None where fewer than two are left."""
    if tasks is None:
        return None
    _, numbers, counts = np.unique(
        np.array([task or "" for task in tasks], dtype=object), return_inverse=True, return_counts=True
    )
    often = np.argsort(-counts, kind="stable")[:_MOST_TASKS]
    often = often[counts[often] >= _LEAST_TASK_ROWS]
    renumbered = np.full(len(counts), len(often))
    renumbered[often] = np.arange(len(often))
    found: NDArray[np.intp] = renumbered[numbers]
    return found if len(np.unique(found)) > 1 else None


def fit(lesson: Lesson, seed: int) -> Members:
    """Fit all heads to some rows.

    Args:
        seed: of the centres where there are more rows than `MOST_CENTRES`, and of the trees.

    Raises:
        InputError: scikit-learn is not installed.
    """
    _require_sklearn()
    rows = np.sort(np.random.default_rng(seed).permutation(len(lesson.targets))[:MOST_CENTRES])
    centres = lesson.features[rows]
    ridge = _Ridge.of(lesson, centres)
    coefficients, intercepts = ridge.solve(lesson.targets[:, None], _RIDGE)
    tasks = None
    if lesson.tasks is not None:
        is_task = np.eye(lesson.tasks.max() + 1)[lesson.tasks]
        votes, shares = ridge.solve(is_task, _TASK_RIDGE)
        coefficients, intercepts = np.hstack([coefficients, votes]), np.concatenate([intercepts, shares])
        tasks = _tensor(_task_means(lesson, is_task))
    kernels = Kernels(centres, _tensor(coefficients), _tensor(intercepts), _GAMMA)
    return Members(kernels, tasks, _random(lesson, seed))


def _task_means(lesson: Lesson, is_task: Doubles) -> Doubles:
    """The mean label of each task: float64 [tasks]."""
    mean = np.average(lesson.targets, weights=lesson.weights)
    sums = (lesson.weights * lesson.targets) @ is_task + _TASK_PRIOR * mean
    means: Doubles = sums / (lesson.weights @ is_task + _TASK_PRIOR)
    return means


def _tensor(values: Doubles) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


@dataclass(frozen=True, slots=True)
class _Ridge:
    """Kernel ridge at some centres, for several targets and penalties.

    Attributes:
        kernel: between the centres: float64 [centres, centres].
        rows: between all rows and the centres, weighted by the rows: float32 [rows, centres]; None where each row is a
            centre.
        products: of the columns of `rows`: float64 [centres, centres]; None where `rows` is.
    """

    kernel: Doubles
    rows: Floats | None
    products: Doubles | None
    weights: Doubles

    @classmethod
    def of(cls, lesson: Lesson, centres: torch.Tensor) -> _Ridge:
        kernel = gaussian(centres, centres, _GAMMA).double().numpy()
        if len(centres) == len(lesson.features):
            return cls(kernel, None, None, lesson.weights)
        rows = gaussian(lesson.features, centres, _GAMMA).numpy()
        weighted = rows * lesson.weights[:, None].astype(np.float32)
        products = (rows.T @ weighted).astype(np.float64)
        # Products in float32 are rounded, so more than their error is added to the diagonal: negative eigenvalues
        # would leave no solution.
        products[np.diag_indices_from(products)] += _ROUNDING * products.diagonal().max()
        return cls(kernel, weighted, products, lesson.weights)

    def solve(self, targets: Doubles, penalty: float) -> tuple[Doubles, Doubles]:
        """A coefficient for each centre, and what is added to their sum: float64 [centres, targets] and [targets]."""
        from scipy.linalg import solve

        means: Doubles = np.average(targets, axis=0, weights=self.weights)
        if self.rows is None or self.products is None:
            matrix, right = self.kernel + np.diag(penalty / self.weights), targets - means
        else:
            # Of more rows than centres: the "subset of regressors".
            matrix, right = self.products + penalty * self.kernel, self.rows.T.astype(np.float64) @ (targets - means)
        coefficients: Doubles = solve(matrix, right, assume_a="pos", overwrite_a=True)
        return coefficients, means


def _random(lesson: Lesson, seed: int) -> Trees:
    """Extremely randomised trees (Geurts et al., Machine Learning 63, 2006): their mean leaves much noise behind."""
    from sklearn.ensemble import ExtraTreesRegressor

    machine = ExtraTreesRegressor(**_TREES, random_state=seed, n_jobs=-1)
    machine.fit(lesson.inputs.numpy(), lesson.targets, sample_weight=lesson.weights)
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
