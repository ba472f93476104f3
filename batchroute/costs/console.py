"""The cost report on the console: one table and one closing line."""

from __future__ import annotations

from decimal import Decimal

from rich import box
from rich.console import Console
from rich.table import Table

from batchroute.costs.report import CostReport

_LOG_WIDTH = 130


def show(report: CostReport) -> None:
    """Print it. Where there is no terminal to fit, lines are as long as the table needs."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    console.print(_table(report))
    console.print(closing_line(report), soft_wrap=True, highlight=False)


def _table(report: CostReport) -> Table:
    rows, router = report.rows, report.router
    table = Table(title=f"{report.name}: {rows['total']:,} rows", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("model", overflow="fold")
    for heading in ("rows", "share", "failed", "tokens in", "tokens out", "busy", "loading", "cost"):
        table.add_column(heading, justify="right")
    table.add_row(
        "router", _short(router.model), f"{router.rows:,}", "", "", f"{router.tokens:,}", "",
        _seconds(router.busy_seconds), _seconds(router.load_seconds), money(router.cost),
    )  # fmt: skip
    routed = sum(usage.rows for usage in report.models.values())
    for side, usage in report.models.items():
        share = f"{usage.rows / routed:.1%}" if routed else ""
        table.add_row(
            side, _short(usage.model), f"{usage.rows:,}", share, f"{usage.failed:,}", f"{usage.input_tokens:,}",
            f"{usage.output_tokens:,}", _seconds(usage.busy_seconds), _seconds(usage.load_seconds), money(usage.cost),
        )  # fmt: skip
    if rows["unrouted"]:
        table.add_row("no usable prompt", "", f"{rows['unrouted']:,}", "", f"{rows['unrouted']:,}")
    table.add_section()
    table.add_row("all", "", f"{rows['total']:,}", "", f"{rows['failed']:,}", *[""] * 4, money(report.total_cost))
    return table


def closing_line(report: CostReport) -> str:
    """One sentence: what was saved, or why that cannot be told."""
    if report.rows["total"] == 0:
        return "The input is empty; so is the output."
    if report.missing_prices:
        return f"Cost not known: {', '.join(report.missing_prices)} missing in the job file."
    if report.savings is None:
        return f"Cost {money(report.total_cost)}; savings {report.baseline.assumption}."
    share = report.savings.share
    verb = "saved" if report.savings.usd >= 0 else "MORE"
    percent = "" if share is None else f" ({abs(share):.1%} {verb})"
    return (
        f"Cost {money(report.total_cost)} against {money(report.baseline.cost)} for all rows on the large model"
        f"{percent}, with {report.cost_advantage or 0:.1%} of the rows on the small one; "
        f"{report.rows['copies']:,} rows shared the answer of an identical prompt."
    )


def money(amount: Decimal | None) -> str:
    """Dollars with as many digits as a small amount needs; `n/a` where a price is missing."""
    if amount is None:
        return "n/a"
    if amount == 0 or abs(amount) >= 1:
        return f"${amount:,.2f}"
    return f"${amount:,.4f}" if abs(amount) >= Decimal("0.01") else f"${amount:.6f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s"


def _short(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1].removeprefix("embedded:")
