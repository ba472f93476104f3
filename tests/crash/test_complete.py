"""Complete: a committed output holds every row of the input once, whichever attempts wrote it."""

from __future__ import annotations

import polars as pl
import pytest

from tests.crash.forking import CRASHED, Crash
from tests.crash.places import Place
from tests.support.jobs import table


@pytest.mark.crash
def test_rows_that_many_attempts_wrote_are_all_there_once_and_in_order(somewhere: Place, calm: pl.DataFrame) -> None:
    somewhere.new_output()
    attempts = 1
    while somewhere.run(Crash(12, "after")) == CRASHED:
        attempts += 1
    assert attempts > 3
    somewhere.check(calm)
    assert somewhere.rows()["id"].to_list() == table(calm.height)["id"].to_list()


@pytest.mark.crash
def test_a_plain_scan_of_the_data_is_right_after_the_commit(somewhere: Place, calm: pl.DataFrame) -> None:
    plain = pl.scan_parquet(f"{somewhere.output}/data/*.parquet", storage_options=somewhere.polars_options())
    assert plain.collect().equals(calm)
