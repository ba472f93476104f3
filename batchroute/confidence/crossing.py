"""Cross-fitting: the confidence of rows that the model itself was fitted to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchroute.confidence.model import LEAST_ROWS, ConfidenceModel, Floats, Groups, fold_of, mean_ranks
from batchroute.confidence.signals import Signals

_MOST_FOLDS, _LEAST_RANKED = 10, 10


def cross_fitted(
    signals: Signals, gaps: Floats, seed: int, groups: Groups | None = None, weights: Floats | None = None
) -> NDArray[np.float32]:
    """The confidence of each row, in an order by models that were fitted to the other folds: shape [rows].

    Rows of one fold are ordered by one model that knows none of them. Across folds that would not be fair: a good row
    lifts the confidence of all rows like it, by every model but its own, and so ranks below them; where signals say
    little, that alone makes them look worse than chance. So rows are put in one order by their rank within their fold,
    and the confidences that the model of all rows gives are dealt out in that order: a threshold on them keeps as many
    rows of another night.

    The models are as like that of all rows as may be: they have its penalty, and with ten folds each knows nine tenths
    of the rows. Fewer rows have fewer folds, so that a fold has ten prompts to rank.

    Args:
        gaps, weights, groups: as for `fit`; rows of one prompt stay in one fold.
    """
    whole = ConfidenceModel.fit(signals, gaps, weights, groups)
    confidence = whole.apply(signals)
    if len(gaps) < LEAST_ROWS:
        return confidence
    prompts = len(gaps) if groups is None else int(groups.max()) + 1
    fold = fold_of(len(gaps), seed, int(np.clip(prompts // _LEAST_RANKED, 2, _MOST_FOLDS)), groups)
    rank, linear = np.empty(len(gaps)), np.empty(len(gaps))
    for number in np.unique(fold):
        held = fold == number
        if held.all():
            return confidence
        counted, group = (None if some is None else some[~held] for some in (weights, groups))
        model = ConfidenceModel.fit(signals.take(~held), gaps[~held], counted, group, whole.penalty)
        linear[held] = model.linear(signals.take(held))
        rank[held] = (mean_ranks(linear[held]) + 0.5) / held.sum()
    # Rows of equal rank in folds of equal size differ by what the models say.
    return _dealt(np.sort(confidence), np.stack([rank, linear], axis=1))


def _dealt(values: NDArray[np.float32], order: Floats) -> NDArray[np.float32]:
    """Ascending values, the lowest to the row that is first in the order; rows of equal order have the mean of theirs.

    Args:
        order: shape [rows, keys], the most important key first.
    """
    _, block, count = np.unique(order, axis=0, return_inverse=True, return_counts=True)
    means = np.add.reduceat(values.astype(np.float64), np.cumsum(count) - count) / count
    dealt: NDArray[np.float32] = means[block.reshape(-1)].astype(np.float32)
    return dealt
