"""Prices of rows that both models answered: by the job's prices and the tokens of the rows, or by one ratio."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from batchroute.confidence.calibration import AnsweredRows
from batchroute.confidence.rows import PricedRows
from batchroute.costs.prices import Price
from batchroute.errors import InputError
from batchroute.fields import Side

Floats = NDArray[np.float64]

_MILLION, _HOUR = 1e6, 3600.0


def by_price(
    answered: AnsweredRows, prices: Mapping[Side, Price], seconds_per_token: Mapping[str, float], router: float = 0.0
) -> PricedRows:
    """Rows with their costs in USD.

    Args:
        prices: by side.
        seconds_per_token: by side, of models that are priced by time.
        router: USD, of scoring one row.

    Raises:
        InputError: the tokens or the seconds of a model are not known.
    """
    tokens = {"small": answered.small_tokens, "large": answered.large_tokens}
    costs: dict[Side, Floats] = {}
    for side, price in prices.items():
        known = tokens[side]
        if known is None:
            raise InputError(
                f"the quality table has no tokens of the {side} model, which its price needs: label it with "
                "'batchroute label', or compare ways by a ratio of costs"
            )
        costs[side] = _cost(known, price, side, seconds_per_token)
    of_samples = answered.sample_tokens
    signals = (
        np.zeros(len(answered.small))
        if of_samples is None
        else _cost(of_samples, prices["small"], "small", seconds_per_token)
    )
    return _rows(answered, costs["small"], signals, costs["large"], router)


def by_ratio(answered: AnsweredRows, ratio: float) -> PricedRows:
    """Rows whose answers all cost the same on one model, and this share of it on the small one.

    Extra samples cost in proportion to their tokens, if these are known.
    """
    ones = np.ones(len(answered.small))
    signals = np.zeros_like(ones)
    if answered.sample_tokens is not None and answered.small_tokens is not None:
        extra, once = (
            float(np.sum(read) + np.sum(written)) for read, written in (answered.sample_tokens, answered.small_tokens)
        )
        signals = ones * ratio * extra / once if once else signals
    return _rows(answered, ones * ratio, signals, ones)


def _cost(
    tokens: tuple[list[float], list[float]], price: Price, side: Side, seconds_per_token: Mapping[str, float]
) -> Floats:
    read, written = (np.array(some, np.float64) for some in tokens)
    cost: Floats
    if price.by_token:
        assert price.input is not None
        assert price.output is not None
        cost = (read * float(price.input) + written * float(price.output)) / _MILLION
        return cost
    assert price.gpu_hour is not None
    if side not in seconds_per_token:
        raise InputError(
            f"the {side} model is priced by time, and the quality table does not say how long a token takes: label it "
            "with 'batchroute label', or compare ways by a ratio of costs"
        )
    cost = (read + written) * seconds_per_token[side] * float(price.gpu_hour) / _HOUR
    return cost


def _rows(answered: AnsweredRows, small: Floats, signals: Floats, large: Floats, router: float = 0.0) -> PricedRows:
    return PricedRows(
        small=np.array(answered.small),
        large=np.array(answered.large),
        confidence=np.array(answered.confidence, np.float32),
        score=None if answered.score is None else np.array(answered.score, np.float32),
        small_cost=small,
        signal_cost=signals,
        large_cost=large,
        group=np.unique(answered.group, return_inverse=True)[1].astype(np.intp),
        router_cost=router,
    )
