"""Expected costs: what a row would cost on a model, before it is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.costs.prices import PICO, Price
from batchroute.router.calibration.lengths import Lengths

Picos = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """One model's expected costs.

    Attributes:
        picos: shape [rows]; pico-dollars.
        error: standard error, in pico-dollars a row, of the mean that the lengths were measured with; it is one and the
            same for all rows, so that it does not shrink with their number.
        spread: standard deviation of a row about its expectation, in pico-dollars.
        least: pico-dollars of all rows, were they to get no response at all; the low end where nothing was measured.
    """

    picos: Picos
    error: float
    spread: float
    measured: bool
    least: Picos


def model_costs(
    price: Price | None, lengths: Lengths, tokens: NDArray[np.int32], max_new_tokens: int
) -> ModelCosts | None:
    """None where it cannot be told: there is no price, or one by time and no measured time.

    Args:
        tokens: shape [rows]; of the prompts, by the router's count.
        max_new_tokens: no response is longer.
    """
    if price is None:
        return None
    read, written = lengths.input.at(tokens), np.minimum(lengths.output.at(tokens), max_new_tokens)
    if price.by_token:
        assert price.input is not None
        assert price.output is not None
        a_read, a_written = float(price.input) * 10**6, float(price.output) * 10**6
    elif lengths.seconds_per_token is not None:
        assert price.gpu_hour is not None
        a_read = a_written = float(price.gpu_hour) * PICO / 3600 * lengths.seconds_per_token
    else:
        return None
    least = read * a_read
    picos = np.rint(least + written * a_written).astype(np.int64)
    line = lengths.output
    return ModelCosts(
        picos, line.error * a_written, line.spread * a_written, lengths.prompts > 0, np.rint(least).astype(np.int64)
    )
