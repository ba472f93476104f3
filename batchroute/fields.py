"""A share: a number from 0 to 1 that people write as a percentage."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field


def _share(value: Any) -> Any:
    """`60%`, `0.6` and `"0.6"` are the same share."""
    if not isinstance(value, str):
        return str(value) if isinstance(value, float) else value
    number = value.strip()
    try:
        return Decimal(number[:-1]) / 100 if number.endswith("%") else Decimal(number)
    except InvalidOperation as error:
        raise ValueError("must be a share such as 60% or 0.6") from error


Share = Annotated[Decimal, BeforeValidator(_share), Field(ge=0, le=1)]
"""A share of a whole, from 0 to 1, exact."""


Side = Literal["small", "large"]

SIDES: tuple[Side, Side] = ("small", "large")
