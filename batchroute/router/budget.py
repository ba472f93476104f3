"""The budget: the rows on which a dollar of the large model buys the most quality."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Picos = NDArray[np.int64]
Mask = NDArray[np.bool_]


def spend(gains: Floats, small: Picos, large: Picos, budget: int) -> Mask | None:
    """Which rows go to the small model so that the expected quality is largest within the budget; None when even the
    cheaper model of every row costs more.

    Every row begins on its cheaper model. Rows whose dearer model is expected to be better are then moved to it, the
    most gain per dollar first, as long as money is left; one that does not fit is passed over. That is within the gain
    of one row of the best that any choice could do: the linear relaxation of the knapsack, rounded down. The same in
    the order of gain alone is tried too, and the better of the two is taken: so it is never worse than that order.

    Args:
        gains: shape [rows]; expected q(L) − q(S).
        small, large: shape [rows]; expected cost of a row on each model, in pico-dollars.
        budget: in pico-dollars; what is taken is never more.
    """
    to_small: Mask = (small < large) | ((small == large) & (gains <= 0))
    left = budget - int(np.minimum(small, large).sum())
    if left < 0:
        return None
    better, price = np.where(to_small, gains, -gains), np.abs(large - small)
    moved = np.flatnonzero((better > 0) & (price > 0))
    better, price = better[moved], price[moved]
    orders = (np.argsort(-(better / price), kind="stable"), np.argsort(-better, kind="stable"))
    best = max((_take(order, price, left) for order in orders), key=lambda taken: float(better[taken].sum()))
    to_small[moved[best]] ^= True
    return to_small


def _take(order: NDArray[np.intp], price: Picos, left: int) -> NDArray[np.intp]:
    """The rows that fit into what is left, in this order: those that do not are passed over."""
    taken = []
    while len(order):
        fits = order[price[order] <= left]
        spent = np.cumsum(price[fits])
        count = int(np.searchsorted(spent, left, side="right"))
        if count == 0:
            break
        taken.append(fits[:count])
        left -= int(spent[count - 1])
        order = fits[count:]
    return np.concatenate(taken) if taken else order[:0]
