"""Expected costs: what each row would cost on a model, before the model answers it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.costs.prices import PICO, Price
from batchroute.router.calibration.lengths import Lengths

Picos = NDArray[np.int64]

_SURE = 3.0


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """One model's expected costs, in pico-dollars.

    Attributes:
        picos: shape [rows].
        error: standard error per row from measuring the lengths. It is the same error for all rows, so that it does not
            average out over many rows.
        spread: standard deviation of one row's cost about its expectation.
        measured: the lengths were measured; otherwise `picos` is an upper bound.
        least: shape [rows]; cost without any response: the lower bound where nothing was measured.
    """

    picos: Picos
    error: float
    spread: float
    measured: bool
    least: Picos

    def at_most(self, rows: NDArray[np.bool_]) -> int:
        """Pico-dollars for these rows, and three standard errors more."""
        count = int(rows.sum())
        return int(self.picos[rows].sum()) + math.ceil(_SURE * math.hypot(self.error * count, self.spread * count**0.5))


def model_costs(
    price: Price | None, lengths: Lengths, tokens: NDArray[np.int32], max_new_tokens: int, samples: int = 0
) -> ModelCosts | None:
    """None if the costs are unknown: there is no price, or the price is by time and no time was measured.

    Args:
        tokens: shape [rows]; the router's token count of each prompt.
        max_new_tokens: the longest response.
        samples: extra sampled responses of each row, as long as the response; together they read the prompt once more.
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
    a_written *= 1 + samples
    least = read * a_read * (2 if samples else 1)
    picos = np.rint(least + written * a_written).astype(np.int64)
    line = lengths.output
    return ModelCosts(
        picos, line.error * a_written, line.spread * a_written, lengths.prompts > 0, np.rint(least).astype(np.int64)
    )
