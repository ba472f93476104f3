"""The budget: the rows on which a dollar of the large model buys the most quality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Picos = NDArray[np.int64]
Mask = NDArray[np.bool_]
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Priced:
    """Rows to spend money on; arrays of shape [rows].

    Attributes:
        gains: expected q(L) − q(S).
        small, large: expected cost of a row on each model, in pico-dollars.
    """

    scores: Scores
    gains: Floats
    small: Picos
    large: Picos

    @property
    def least(self) -> int:
        """What the cheaper model of every row costs."""
        return int(np.minimum(self.small, self.large).sum())

    @property
    def most(self) -> int:
        """What the large model costs on all rows, or the cheapest way where that is more."""
        return max(self.least, int(self.large.sum()))


def spend(rows: Priced, budget: int, known: tuple[Priced, Floats] | None = None) -> Mask | None:
    """Which rows go to the small model, so that the expected quality is largest within the budget; None when even the
    cheaper model of every row costs more.

    By gain per dollar where rows whose quality is known confirm, by a standard error, that with as large a part of the
    money this would have bought more than the order of the score alone; else in that order. Expected gains are not true
    ones: where dear rows gain more than expected, an order that shuns them loses.

    Args:
        budget: in pico-dollars; what is expected to be spent is never more.
        known: rows of the calibration, priced as these are, and their q(L) − q(S).
    """
    if budget < rows.least:
        return None
    if known is not None:
        others, losses = known
        part = min(1.0, (budget - rows.least) / max(1, rows.most - rows.least))
        money = others.least + int((others.most - others.least) * part)
        bought = losses * (by_score(others, money).astype(np.float64) - per_dollar(others, money))
        if bought.sum() < float(np.sqrt((bought**2).sum())):
            return by_score(rows, budget)
    return per_dollar(rows, budget)


def per_dollar(rows: Priced, budget: int) -> Mask:
    """Every row begins on its cheaper model. Rows whose dearer model is expected to be better are then moved to it, the
    most gain per dollar first, as long as money is left; one that does not fit is passed over.

    That is within the gain of one row of the best that any choice could do: the linear relaxation of the knapsack,
    rounded down. The order of the gain alone is tried too, and the better of the two is taken.
    """
    to_small: Mask = (rows.small < rows.large) | ((rows.small == rows.large) & (rows.gains <= 0))
    better, price = np.where(to_small, rows.gains, -rows.gains), np.abs(rows.large - rows.small)
    moved = np.flatnonzero((better > 0) & (price > 0))
    better, price = better[moved], price[moved]
    orders = (np.argsort(-(better / price), kind="stable"), np.argsort(-better, kind="stable"))
    left = budget - rows.least
    best = max((_take(order, price, left) for order in orders), key=lambda taken: float(better[taken].sum()))
    to_small[moved[best]] ^= True
    return to_small


def by_score(rows: Priced, budget: int) -> Mask:
    """As `per_dollar`, in the order of the score, the hardest first, whatever they are expected to gain."""
    to_small: Mask = rows.small < rows.large
    moved = np.flatnonzero(to_small)
    order = np.argsort(rows.scores[moved], kind="stable")
    taken = _take(order, (rows.large - rows.small)[moved], budget - rows.least)
    to_small[moved[taken]] = False
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
