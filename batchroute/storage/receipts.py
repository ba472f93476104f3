"""Receipts, each of which proves that a unit is done, and the facts in them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

FORMAT_VERSION = 1


class Facts(BaseModel):
    """What is known of a unit apart from its rows; stands in the metadata of the data file and in the receipt."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    unit: str
    rows: int
    first: int = Field(description="smallest row position in it; -1 when it has no rows")
    last: int = Field(description="largest row position in it; -1 when it has no rows")
    seconds: float = Field(default=0.0, description="computing it, without loading models")
    load_seconds: float = Field(default=0.0, description="loading a model for it; 0 when that was loaded already")
    finished: float = Field(default_factory=time.time, description="Unix time")
    counts: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def of(cls, run_id: str, unit: str, positions: Sequence[int], **more: Any) -> Self:
        """The facts of a unit with the rows at these positions, in order."""
        first, last = (positions[0], positions[-1]) if positions else (-1, -1)
        return cls(run_id=run_id, unit=unit, rows=len(positions), first=first, last=last, **more)


class Receipt(Facts):
    """Proof that a unit is done: the facts, and the data file with its hash."""

    file: str
    bytes: int
    sha256: str
