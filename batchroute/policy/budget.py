"""Routing within a budget: spend the large model on the rows where a dollar buys the most quality."""

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
    """Rows with their expected gains and costs; arrays of shape [rows].

    Attributes:
        gains: expected q(L) − q(S).
        small, large: expected cost of each row on each model, in pico-dollars.
    """

    scores: Scores
    gains: Floats
    small: Picos
    large: Picos

    @property
    def least(self) -> int:
        """Cost of all rows, each on its cheaper model."""
        return int(np.minimum(self.small, self.large).sum())

    @property
    def most(self) -> int:
        """Cost of all rows on the large model, but at least `least`."""
        return max(self.least, int(self.large.sum()))


def spend(rows: Priced, budget: int, known: tuple[Priced, Floats] | None = None) -> Mask | None:
    """Choose the rows for the small model so that the expected quality is largest within the budget.

    The order is gain per dollar, unless `known` rows speak against it: there, with the same part of the money, that
    order must have bought more true quality than the order of the scores alone, by at least one standard error.
    Otherwise the order of the scores is used. Expected gains are not true gains: if expensive rows gain more than
    expected, an order that avoids them loses.

    Args:
        budget: in pico-dollars; the expected cost never exceeds it.
        known: rows of the calibration with the same prices, and their true q(L) − q(S).

    Returns:
        The rows for the small model; None if even the cheaper model of every row exceeds the budget.
    """
    if budget < rows.least:
        return None
    if known is not None:
        priced, losses = known
        part = min(1.0, (budget - rows.least) / max(1, rows.most - rows.least))
        money = priced.least + int((priced.most - priced.least) * part)
        bought = losses * (by_score(priced, money).astype(np.float64) - per_dollar(priced, money))
        if bought.sum() < float(np.sqrt((bought**2).sum())):
            return by_score(rows, budget)
    return per_dollar(rows, budget)


def per_dollar(rows: Priced, budget: int) -> Mask:
    """Start every row on its cheaper model, then move rows to the dearer model if that is expected to be better.

    Rows move in the order of gain per dollar while money is left; a row that does not fit is skipped. The result is
    within one row's gain of the optimum: it is the linear relaxation of the knapsack problem, rounded down. The order
    of the gain alone is tried too, and the better result is used.
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
    """As `per_dollar`, but in the order of the score, hardest rows first, whatever they are expected to gain."""
    to_small: Mask = rows.small < rows.large
    moved = np.flatnonzero(to_small)
    order = np.argsort(rows.scores[moved], kind="stable")
    taken = _take(order, (rows.large - rows.small)[moved], budget - rows.least)
    to_small[moved[taken]] = False
    return to_small


def _take(order: NDArray[np.intp], price: Picos, left: int) -> NDArray[np.intp]:
    """The rows that fit into the money left, in this order; rows that do not fit are skipped."""
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
