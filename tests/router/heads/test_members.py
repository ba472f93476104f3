from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.kernel_ridge import KernelRidge

from batchroute.router.heads.members import combined
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

    def ridge(learned: np.ndarray, penalty: float) -> np.ndarray:
        machine = KernelRidge(alpha=penalty, kernel="rbf", gamma=fitting._GAMMA)
        mean = np.average(learned, axis=0, weights=lesson.weights)
        machine.fit(features.numpy(), learned - mean, sample_weight=lesson.weights)
        return mean + machine.predict(new.numpy())

    shares = softmax(8 * ridge(np.eye(4)[tasks], fitting._TASK_RIDGE), axis=1)
    prior = 5 * np.average(targets, weights=lesson.weights)
    means = [(lesson.weights * targets)[tasks == task].sum() + prior for task in range(4)]
    means = [mean / (lesson.weights[tasks == task].sum() + 5) for task, mean in enumerate(means)]
    trees = ExtraTreesRegressor(**fitting._TREES, random_state=3)
    trees.fit(features.numpy(), targets, sample_weight=lesson.weights)
    expected = [ridge(targets, fitting._RIDGE), shares @ means, trees.predict(new.numpy())]
    for own, other in zip(predicted.T, expected, strict=True):
        assert own == pytest.approx(other, abs=2e-3)


def test_the_head_of_tasks_counts_twice() -> None:
    mean, spread = combined(torch.tensor([[0.0, 0.4, 0.8], [0.5, 0.5, 0.5]]))
    assert mean.tolist() == pytest.approx([0.4, 0.5])
    assert spread.tolist() == pytest.approx([0.08**0.5, 0.0])
    mean, spread = combined(torch.tensor([[0.0, 0.8]]))
    assert (mean.item(), spread.item()) == pytest.approx((0.4, 0.4))


def test_rows_without_tasks_have_two_heads() -> None:
    features, targets = rows(60)
    assert fit(Lesson(features, features, targets, np.ones(60)), seed=0).predict(features, features).shape == (60, 2)
    assert numbered(None) is numbered(["one"] * 5) is None
    # Rare tasks share a number.
    numbers = numbered([*"bbbbb", *"aaaaaa", "c", None, "d"])
    assert numbers is not None
    assert numbers.tolist() == [1] * 5 + [0] * 6 + [2] * 3
    assert numbered([str(row) for row in range(50)]) is None


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
