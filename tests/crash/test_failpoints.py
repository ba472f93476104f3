"""The process ends before and after every put of a small run; the next attempt makes it good."""

from __future__ import annotations

import polars as pl
import pytest

from tests.crash import forking
from tests.crash.forking import Crash
from tests.crash.places import Place


@pytest.mark.crash
def test_a_crash_at_every_put_is_made_good(somewhere: Place, calm: pl.DataFrame) -> None:
    """After a put is before the next one: nothing is written in between. Only the last needs both."""
    puts = len(forking.lines(somewhere.log, "put"))
    assert puts > 20
    for crash in [*(Crash(put, "before") for put in range(puts)), Crash(puts - 1, "after")]:
        somewhere.crash_and_make_good(crash, calm)
