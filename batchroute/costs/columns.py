"""Columns of exact amounts of money, in pyarrow and numpy."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchroute.costs.prices import COST_SCALE

COST = pa.decimal128(20, COST_SCALE)


def usd_column(picos: Sequence[int | None] | NDArray[np.int64]) -> pa.Array:
    """Pico-dollars as a column of exact dollars; None is null.

    Args:
        picos: each below 2**63, about nine million dollars.
    """
    low = pa.array(picos, pa.int64())
    # A decimal128 holds a whole number, and its type the scale: the buffers of `digits` are the column's already.
    digits = low.cast(pa.decimal128(19, 0))
    return pa.Array.from_buffers(COST, len(digits), digits.buffers())


def picos_of(costs: pa.ChunkedArray) -> NDArray[np.int64]:
    """Pico-dollars of a column of dollars, as `usd_column` makes it; 0 for null."""
    digits = costs.combine_chunks().cast(COST).fill_null(Decimal(0))
    pairs = np.frombuffer(digits.buffers()[1], np.int64).reshape(-1, 2)
    picos: NDArray[np.int64] = pairs[digits.offset : digits.offset + len(digits), 0].copy()
    return picos
