from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.kernel_ridge import KernelRidge

from batchroute.router.training.heads import fitting
from batchroute.router.training.heads.fitting import Lesson, fit, numbered


def rows(count: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 0.5, (count, 6)).astype(np.float32)
    return torch.from_numpy(features), np.clip(0.5 + features[:, 0] * features[:, 1], 0, 1).astype(np.float64)


def test_heads_predict_what_scikit_learn_predicts() -> None:
    features, targets = rows(300)
    new, _ = rows(100, seed=1)
    rng = np.random.default_rng(0)
    weights, tasks = rng.uniform(0.5, 1.5, 300), rng.integers(0, 4, 300)
    lesson = Lesson(features, features, targets, weights / weights.mean(), tasks)
    predicted = fit(lesson, seed=3).predict(new, new)
    assert predicted.shape == (100, len(fitting.KINDS))
    means = lesson.task_means
    assert means is not None
    assert len(np.unique(means)) == 4
    expected = []
    for learned, penalty in ((targets, fitting._RIDGE), (means, fitting._TASK_RIDGE)):
        ridge = KernelRidge(alpha=penalty, kernel="rbf", gamma=fitting._GAMMA)
        mean = np.average(learned, weights=lesson.weights)
        ridge.fit(features.numpy(), learned - mean, sample_weight=lesson.weights)
        expected.append(mean + ridge.predict(new.numpy()))
    for learned, settings in ((targets, fitting._TREES), (means, fitting._TASK_TREES)):
        trees = ExtraTreesRegressor(**settings, random_state=3)
        expected.append(trees.fit(features.numpy(), learned, sample_weight=lesson.weights).predict(new.numpy()))
    for own, other in zip(predicted.T, expected, strict=True):
        assert own == pytest.approx(other, abs=2e-3)


def test_rows_without_tasks_have_two_heads() -> None:
    features, targets = rows(60)
    assert fit(Lesson(features, features, targets, np.ones(60)), seed=0).predict(features, features).shape == (60, 2)
    assert numbered(None) is numbered(["one"] * 5) is None
    numbers = numbered(["b", None, "b", "a"])
    assert numbers is not None
    assert numbers.tolist() == [2, 0, 2, 1]


def test_more_rows_than_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = rows(400)
    lesson = Lesson(features, features, targets, np.ones(400))
    whole = fit(lesson, seed=0)
    monkeypatch.setattr(fitting, "MOST_CENTRES", 200)
    reduced = fit(lesson, seed=0)
    assert len(reduced.kernels.centres) == 200
    new, _ = rows(100, seed=1)
    for own, other in zip(reduced.predict(new, new).T, whole.predict(new, new).T, strict=True):
        assert np.corrcoef(own, other)[0, 1] > 0.9
