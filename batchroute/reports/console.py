"""The cost report on the console: one table and a few lines on where its figures are from."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from batchroute.costs.price_lists import GIVEN
from batchroute.costs.prices import money
from batchroute.costs.report import ESCALATED, CostReport
from batchroute.costs.usage import ModelUsage, RouterUsage
from batchroute.policy.forecast import Forecast
from batchroute.reports.words import NOT_KNOWN, share, usd, with_interval

_LOG_WIDTH = 130


def show(report: CostReport) -> None:
    """Print it. Where there is no terminal to fit, lines are as long as the table needs."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    console.print(_table(report))
    for line in (*_copies(report), *notes(report)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


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
        _add(table, side, usage, f"{usage.rows / routed:.1%}" if routed else "")
    if report.escalated is not None and report.escalated.rows:
        # Without a share: these are rows of the small model's.
        _add(table, ESCALATED, report.escalated.usage, "")
    if report.audited is not None and report.audited.rows:
        _add(table, "audit", report.audited, "")
    if rows["unrouted"]:
        table.add_row("no usable prompt", "", f"{rows['unrouted']:,}", "", f"{rows['unrouted']:,}")
    table.add_section()
    table.add_row("all", "", f"{rows['total']:,}", "", f"{rows['failed']:,}", *[""] * 4, money(report.total_cost))
    return table


def _add(table: Table, name: str, usage: ModelUsage, share: str) -> None:
    table.add_row(
        name, _short(usage.model), f"{usage.rows:,}", share, f"{usage.failed:,}", f"{usage.input_tokens:,}",
        f"{usage.output_tokens:,}", _seconds(usage.busy_seconds), _seconds(usage.load_seconds), money(usage.cost),
    )  # fmt: skip


def notes(report: CostReport) -> list[str]:
    """What the table has no room for, as far as there is any: why rows were escalated, tokens of special kinds, and
    where prices are from, or why there are none."""
    return [*_reasons(report), *_tokens(report), *_prices(report), *_missing(report)]


def _reasons(report: CostReport) -> list[str]:
    if report.escalated is None or not report.escalated.rows:
        return []
    kinds = ", ".join(f"{count:,} {reason}" for reason, count in report.escalated.reasons.items())
    return [f"Went on to the large model: {kinds}."]


def _copies(report: CostReport) -> list[str]:
    copies = report.rows["copies"]
    if not copies:
        return []
    return [f"{'1 row' if copies == 1 else f'{copies:,} rows'} shared the answer of an identical prompt."]


def _tokens(report: CostReport) -> list[str]:
    usages = list(report.models.values()) + ([] if report.escalated is None else [report.escalated.usage])
    cached, reasoning, estimated = (
        sum(getattr(usage, name) for usage in usages) for name in ("cached_tokens", "reasoning_tokens", "estimated")
    )
    parts = [
        *([f"{cached:,} of the tokens in were in a provider's cache"] if cached else []),
        *([f"{reasoning:,} of the tokens out were reasoning"] if reasoning else []),
    ]
    lines = [f"{', '.join(parts)}."] if parts else []
    if estimated:
        rows = "1 row's" if estimated == 1 else f"{estimated:,} rows'"
        lines.append(f"{rows} tokens were counted here, an estimate: the endpoint did not say.")
    return lines


def _prices(report: CostReport) -> list[str]:
    priced: dict[str, RouterUsage | ModelUsage] = {"router": report.router}
    priced |= {f"{side} model": usage for side, usage in report.models.items()}
    return [
        f"{'No price' if usage.cost is None else 'Price'} of the {name}: {usage.price}"
        for name, usage in priced.items()
        if usage.price not in ("", GIVEN)
    ]


def _missing(report: CostReport) -> list[str]:
    return [f"Cost not known: {', '.join(report.missing_prices)} missing."] if report.missing_prices else []


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s"


def _short(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1].removeprefix("embedded:")


def policies(forecasts: list[Forecast]) -> Table:
    """A line each; the first is what is asked for."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("policy", overflow="fold")
    for heading in ("to small", "cost", "95 % range", "saved", "quality drop"):
        table.add_column(heading, justify="right")
    for number, one in enumerate(forecasts):
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
