from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import SVR

from batchroute.router.training.heads import fitting
from batchroute.router.training.heads.fitting import fit


def rows(count: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 0.5, (count, 6)).astype(np.float32)
    return torch.from_numpy(features), np.clip(0.5 + features[:, 0] * features[:, 1], 0, 1).astype(np.float64)


def test_heads_predict_what_scikit_learn_predicts() -> None:
    features, targets = rows(300)
    new, _ = rows(100, seed=1)
    weights = np.random.default_rng(0).uniform(0.5, 1.5, 300)
    predicted = fit(features, features, targets, weights, seed=3).predict(new, new)
    mean = float(np.average(targets, weights=weights))
    known, asked = features.numpy(), new.numpy()
    ridge = KernelRidge(alpha=fitting._RIDGE, kernel="rbf", gamma=fitting._GAMMA)
    support = SVR(kernel="rbf", gamma=fitting._GAMMA, **fitting._SUPPORT)
    boosted = GradientBoostingRegressor(**fitting._BOOSTED, random_state=3)
    random = ExtraTreesRegressor(**fitting._RANDOM, random_state=3)
    expected = [
        mean + ridge.fit(known, targets - mean, sample_weight=weights).predict(asked),
        *(machine.fit(known, targets, sample_weight=weights).predict(asked) for machine in (support, boosted, random)),
    ]
    assert predicted.shape == (100, len(fitting.KINDS))
    for own, other in zip(predicted.T, expected, strict=True):
        assert own == pytest.approx(other, abs=2e-3)


def test_more_rows_than_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = rows(400)
    weights = np.ones(400)
    whole = fit(features, features, targets, weights, seed=0)
    monkeypatch.setattr(fitting, "MOST_CENTRES", 200)
    reduced = fit(features, features, targets, weights, seed=0)
    assert len(reduced.kernels.centres) == 200
    new, _ = rows(100, seed=1)
    for own, other in zip(reduced.predict(new, new).T, whole.predict(new, new).T, strict=True):
        assert np.corrcoef(own, other)[0, 1] > 0.9
