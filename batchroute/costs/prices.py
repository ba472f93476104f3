"""Prices, and exact amounts of money.

All amounts are whole numbers of *pico-dollars* (10⁻¹² USD) in arithmetic, and `decimal128(20, 12)` in files, so that
the costs of a million rows add up to the report's total to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Self

import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

PICO = 10**12
COST_SCALE = 12
COST = pa.decimal128(20, COST_SCALE)


def _exact(value: object) -> object:
    # YAML reads 0.15 as a binary float; its shortest text is the number that the user wrote.
    return str(value) if isinstance(value, float) else value


Money = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, max_digits=18, decimal_places=6)]


class Price(BaseModel):
    """What a model costs, in USD: by token (`input` and `output`, per million tokens) or by time (`gpu_hour`)."""

    model_config = ConfigDict(extra="forbid")

    input: Money | None = None
    output: Money | None = None
    gpu_hour: Money | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        by_token = self.input is not None or self.output is not None
        if by_token and self.gpu_hour is not None:
            raise ValueError("give input and output, or gpu_hour, not both")
        if by_token and (self.input is None or self.output is None):
            raise ValueError("a price by token needs both input and output (0 is allowed)")
        if not by_token and self.gpu_hour is None:
            raise ValueError("empty: give input and output (USD per million tokens), or gpu_hour (USD)")
        return self

    @property
    def by_token(self) -> bool:
        return self.input is not None

    def of_tokens(self, input_tokens: int, output_tokens: int) -> int:
        """Pico-dollars for these tokens; exact, since a price has at most six decimals."""
        assert self.input is not None
        assert self.output is not None
        return input_tokens * int(self.input * 10**6) + output_tokens * int(self.output * 10**6)

    def of_seconds(self, seconds: float) -> int:
        """Pico-dollars for this much time on one device, rounded down."""
        assert self.gpu_hour is not None
        return int(self.gpu_hour * PICO * Decimal(str(seconds)) / 3600)


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Shares of `total` in proportion to `weights`, whole numbers that add up to `total` exactly."""
    whole = sum(weights)
    if whole == 0:
        weights, whole = [1] * len(weights), len(weights)
    shares, given, so_far = [], 0, 0
    for weight in weights:
        so_far += weight
        until_here = total * so_far // whole
        shares.append(until_here - given)
        given = until_here
    return shares


def usd(pico: int) -> Decimal:
    """Pico-dollars as dollars, exactly."""
    return Decimal(pico).scaleb(-COST_SCALE)


def usd_column(picos: Sequence[int | None]) -> pa.Array:
    """Pico-dollars as a column of exact dollars; None is null.

    Args:
        picos: each below 2**63, about nine million dollars.
    """
    low = pa.array(picos, pa.int64())
    # A decimal is a whole number of 128 bits and a scale that its type keeps: the number is there already.
    digits = low.cast(pa.decimal128(19, 0))
    return pa.Array.from_buffers(COST, len(digits), digits.buffers())
