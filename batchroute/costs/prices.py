"""Prices, and exact amounts of money.

Arithmetic uses whole numbers of *pico-dollars* (10⁻¹² USD), and files hold `decimal128(20, 12)`, so that the costs of a
million rows add up to the report's total to the last digit.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from batchroute.fields import Share

COST_SCALE = 12
PICO = 10**COST_SCALE
MICRO = Decimal("0.000001")


def _exact(value: object) -> object:
    # YAML reads 0.15 as a binary float; its shortest text is the number that the user wrote.
    return str(value) if isinstance(value, float) else value


Money = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, max_digits=18, decimal_places=6)]
Discount = Annotated[Share, Field(decimal_places=6)]


class Price(BaseModel):
    """What a model costs, in USD: by token (`input` and `output`, per million tokens) or by time (`gpu_hour`).

    Attributes:
        cached_input: per million input tokens that the provider read from its cache; as `input` unless set.
        batch_discount: the share by which a provider batch lowers all prices by token; none unless set.
    """

    model_config = ConfigDict(extra="forbid")

    input: Money | None = None
    cached_input: Money | None = None
    output: Money | None = None
    batch_discount: Discount | None = None
    gpu_hour: Money | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        by_token = self.input is not None or self.output is not None
        if by_token and self.gpu_hour is not None:
            raise ValueError("give input and output, or gpu_hour, not both")
        if by_token and (self.input is None or self.output is None):
            raise ValueError("a price by token needs both input and output (0 is allowed)")
        for key in ("cached_input", "batch_discount"):
            if not by_token and getattr(self, key) is not None:
                raise ValueError(f"{key} is for a price by token: it needs input and output, and no gpu_hour")
        if not by_token and self.gpu_hour is None:
            raise ValueError("empty: give input and output (USD per million tokens), or gpu_hour (USD)")
        return self

    @property
    def by_token(self) -> bool:
        return self.input is not None

    def in_batches(self) -> Price:
        """The price in a provider batch, with the discount taken off.

        Each discounted price per million tokens is rounded to a millionth of a dollar, half up, so that the cost of a
        row stays a whole number of pico-dollars. The rounding costs at most half a dollar in 10¹² tokens.
        """
        if self.batch_discount is None:
            return self
        share = 1 - self.batch_discount
        lower = {
            key: (price * share).quantize(MICRO, ROUND_HALF_UP)
            for key in ("input", "cached_input", "output")
            if (price := getattr(self, key)) is not None
        }
        return Price(**lower)

    def of_tokens(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> int:
        """Pico-dollars for these tokens; exact, since a price has at most six decimals.

        Args:
            cached_tokens: how many of the input tokens the provider read from its cache; at most `input_tokens`.
        """
        assert 0 <= cached_tokens <= input_tokens
        read, cached, written = self._of_a_token
        return (input_tokens - cached_tokens) * read + cached_tokens * cached + output_tokens * written

    @functools.cached_property
    def _of_a_token(self) -> tuple[int, int, int]:
        """Pico-dollars for one input token, one cached input token and one output token."""
        assert self.input is not None
        assert self.output is not None
        cached_input = self.input if self.cached_input is None else self.cached_input
        return int(self.input * 10**6), int(cached_input * 10**6), int(self.output * 10**6)

    def of_seconds(self, seconds: float) -> int:
        """Pico-dollars for `seconds` on one device, rounded down."""
        assert self.gpu_hour is not None
        return int(self.gpu_hour * PICO * Decimal(str(seconds)) / 3600)


def split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts in proportion to `weights`; the parts add up to `total` exactly."""
    whole = sum(weights)
    if whole == 0:
        weights, whole = [1] * len(weights), max(1, len(weights))
    ends = [total * so_far // whole for so_far in itertools.accumulate(weights, initial=0)]
    return [end - start for start, end in itertools.pairwise(ends)]


def usd(pico: int) -> Decimal:
    """Pico-dollars as dollars, exactly."""
    return Decimal(pico).scaleb(-COST_SCALE)


def pico(amount: Decimal) -> int:
    """Dollars with at most twelve decimals as pico-dollars, exactly."""
    return int(amount.scaleb(COST_SCALE))
