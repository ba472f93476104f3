"""Policies side by side, on the console."""

from __future__ import annotations

from rich import box
from rich.table import Table

from batchroute.reports.night import Forecast
from batchroute.reports.words import NOT_KNOWN, share, usd, with_interval


def table(found: list[Forecast]) -> Table:
    """A line each; the first is what is asked for."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("policy", overflow="fold")
    for heading in ("to small", "cost", "95 % range", "saved", "quality drop"):
        table.add_column(heading, justify="right")
    for number, one in enumerate(found):
        cost = one.cost
        table.add_row(
            one.policy,
            share(one.small_share),
            usd(None if cost is None else cost.value),
            "" if cost is None else f"{usd(cost.low)} to {usd(cost.high)}",
            NOT_KNOWN if one.savings_share is None else share(one.savings_share),
            NOT_KNOWN if one.drop is None else with_interval(one.drop),
            style="bold" if number == 0 else None,
        )
    return table
