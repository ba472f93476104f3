"""Reports on the console: the costs of a night, and policies side by side."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table

from batchroute.costs.report import CostReport
from batchroute.policy.forecast import Forecast
from batchroute.reports import drops, tables
from batchroute.reports.notes import copies, hits, notes, samples
from batchroute.reports.tables import ModelRow
from batchroute.words import digits, model, money, plural, share

_LOG_WIDTH = 130


def show(report: CostReport) -> None:
    """Print the costs. Where there is no terminal, lines are as long as the table needs."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    console.print(_table(report))
    for line in (*copies(report), *hits(report), *samples(report), *notes(report)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _table(report: CostReport) -> Table:
    title = f"{report.name}: {plural(report.rows['total'], 'row')}"
    table = _empty_table(
        ("", "model"), ("rows", "share", "failed", "tokens in", "tokens out", "busy", "loading", "cost"), title
    )
    decimals = tables.cost_decimals(report)
    for row in tables.models(report):
        table.add_row(*_cells(row, decimals))
    table.add_section()
    total = money(report.total_cost, decimals)
    table.add_row("all", "", digits(report.rows["total"]), "", digits(report.rows["failed"]), *[""] * 4, total)
    return table


def _cells(row: ModelRow, decimals: int) -> list[str]:
    return [
        row.role,
        model(row.model),
        digits(row.rows),
        "" if row.share is None else share(row.share),
        *(digits(count) for count in (row.failed, row.input_tokens, row.output_tokens)),
        *(_seconds(seconds) for seconds in (row.busy_seconds, row.load_seconds)),
        money(row.cost, decimals) if row.is_priced else "",
    ]


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f} s"


def policies(forecasts: list[Forecast]) -> Table:
    """A line for each policy. The first, the job's own, is bold."""
    table = _empty_table(("policy",), ("to small", "cost", "95 % range", "saved", "quality drop"))
    for number, forecast in enumerate(forecasts):
        cost = forecast.cost
        table.add_row(
            forecast.policy,
            share(forecast.small_share),
            money(None if cost is None else cost.value),
            "" if cost is None else f"{money(cost.low)} to {money(cost.high)}",
            share(forecast.savings_share),
            drops.with_interval(forecast.drop),
            style="bold" if number == 0 else None,
        )
    return table


def _empty_table(names: Iterable[str], figures: Iterable[str], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in names:
        table.add_column(heading, overflow="fold")
    for heading in figures:
        table.add_column(heading, justify="right")
    return table
