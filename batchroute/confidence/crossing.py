"""Cross-fitting: the confidence of rows that the model itself was fitted to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchroute.confidence.model import LEAST_ROWS, ConfidenceModel, Floats, Groups, fold_of, sigmoid
from batchroute.confidence.signals import Signals

_FOLDS = 20


def cross_fitted(
    signals: Signals, gaps: Floats, seed: int, groups: Groups | None = None, weights: Floats | None = None
) -> NDArray[np.float32]:
    """The confidence of each row, by a model that was fitted to the other folds: shape [rows].

    The rows stand for those that the model of all rows will decide on. So the models are as like it as may be: with
    many folds each knows nearly all rows, and all have its penalty, since confidences of models with different
    penalties are spread differently and cannot be put in one order.

    A model that is fitted without a good fold has a low base, and ranks that fold's rows low: where signals say little
    that alone would make them look worse than chance. So all models get the base of the model that is fitted to all
    rows, over which their mean is then the same.

    Args:
        gaps, weights, groups: as for `fit`; rows of one prompt stay in one fold.
    """
    whole = ConfidenceModel.fit(signals, gaps, weights, groups)
    if len(gaps) < LEAST_ROWS:
        return whole.apply(signals)
    fold, mean = fold_of(len(gaps), seed, _FOLDS, groups), float(whole.linear(signals).mean())
    confidence = np.empty(len(gaps), np.float32)
    for number in np.unique(fold):
        held = fold == number
        if held.all():
            return whole.apply(signals)
        counted, group = (None if some is None else some[~held] for some in (weights, groups))
        model = ConfidenceModel.fit(signals.take(~held), gaps[~held], counted, group, whole.penalty)
        linear = model.linear(signals)
        confidence[held] = sigmoid(linear - linear.mean() + mean)[held]
    return confidence
