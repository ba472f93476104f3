"""The rows of a report's tables, in order, as figures. The page, the Markdown and the console put them into words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar

from batchroute.costs.report import ESCALATED, CostReport
from batchroute.costs.usage import ModelUsage
from batchroute.policy.forecast import Range
from batchroute.reports.headline import audited
from batchroute.reports.night import Choice, NightReport
from batchroute.words import decimals_for

FIRST = 20
"""The number of groups that the page shows at once."""
FOLDED = 180
"""The number of further groups under a fold: with long names the page stays below 1 MB."""

DEFERRED = "deferred"

Row = TypeVar("Row")


@dataclass(frozen=True)
class ModelRow:
    """What the router or a model took.

    Attributes:
        share: of the routed rows; None for rows that are counted in another line, too.
        cost: USD; None where the price is missing.
    """

    role: str
    model: str
    rows: int
    share: float | None
    failed: int | None
    input_tokens: int | None
    output_tokens: int | None
    busy_seconds: float | None
    load_seconds: float | None
    cost: Decimal | None
    is_priced: bool = True


@dataclass(frozen=True)
class GroupRow:
    """One group: `small` of its `routed` rows went to the small model first."""

    name: str
    rows: int
    routed: int
    small: int
    failed: int
    tokens: int
    cost: Decimal | None


@dataclass(frozen=True)
class PolicyRow:
    """The night's policy or an alternative.

    Attributes:
        kind: `tonight` (measured), `expected` (the forecast for tonight), or `instead` (an alternative).
        cost: USD.
        cost_range: None for a measured cost.
        drop: percent.
    """

    kind: str
    policy: str
    rows: int
    small: int
    cost: Decimal | float | None
    cost_range: Range | None
    savings: Decimal | float | None
    savings_share: Decimal | float | None
    drop: Range | None


@dataclass(frozen=True)
class Listed(Generic[Row]):
    """A list that may be long.

    Attributes:
        rest: the number of rows that the page leaves out.
    """

    first: list[Row]
    folded: list[Row]
    rest: int

    def __len__(self) -> int:
        return len(self.first) + len(self.folded) + self.rest


def listed(rows: list[Row]) -> Listed[Row]:
    # One to three more rows are not worth a fold.
    first = FIRST if len(rows) > FIRST + 3 else len(rows)
    folded = rows[first : first + FOLDED]
    return Listed(rows[:first], folded, len(rows) - first - len(folded))


def models(cost: CostReport) -> list[ModelRow]:
    """The router, the reader, both models, escalated rows, audited rows, and rows without a usable prompt."""
    # A job without a router has one that is named by nothing.
    rows = [
        ModelRow(
            role, usage.model, usage.rows, None, None, usage.tokens, None,
            usage.busy_seconds, usage.load_seconds, usage.cost,
        )
        for role, usage in cost.encoders.items()
        if usage.model
    ]  # fmt: skip
    for side, usage in cost.models.items():
        rows.append(_of(side, usage, usage.rows / cost.routed if cost.routed else None))
    for side, usage in (cost.calibration or {}).items():
        rows.append(_of(f"calibration, {side}", usage, None))
    if cost.escalated is not None and cost.escalated.rows:
        rows.append(_of(ESCALATED, cost.escalated.usage, None))
    if cost.deferred is not None and cost.deferred.rows:
        rows.append(_of(DEFERRED, cost.deferred.usage, None))
    if cost.audited is not None and cost.audited.rows:
        # An audited row that failed has the small model's answer in the output: it is no failed row of the night.
        rows.append(dataclasses.replace(_of("audit", cost.audited, None), failed=None))
    if unrouted := cost.rows.get("unrouted", 0):
        rows.append(
            ModelRow("no usable prompt", "", unrouted, None, unrouted, None, None, None, None, None, is_priced=False)
        )
    return rows


def cost_decimals(cost: CostReport) -> int:
    """The decimals of the costs in the table of models."""
    return decimals_for([cost.total_cost, *(row.cost for row in models(cost))])


def _of(role: str, usage: ModelUsage, share: float | None) -> ModelRow:
    return ModelRow(
        role, usage.model, usage.rows, share, usage.failed, usage.tokens_read, usage.tokens_written,
        usage.busy_seconds, usage.load_seconds, usage.cost,
    )  # fmt: skip


def group_heading(cost: CostReport) -> str:
    """The columns that rows are grouped by; empty where there are none."""
    return " · ".join(_keys(cost.groups[0])) if cost.groups else ""


def groups(cost: CostReport) -> list[GroupRow]:
    """Groups over all routes, the most expensive ones first; none without a column to group by."""
    gathered: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    if group_heading(cost):
        for entry in cost.groups:
            gathered.setdefault(tuple(str(entry[key]) for key in _keys(entry)), []).append(entry)
    rows = [_group(entries) for entries in gathered.values()]
    return sorted(rows, key=lambda group: (-(group.cost or Decimal(0)), -group.rows, group.name))


def _keys(entry: dict[str, Any]) -> list[str]:
    """The columns that name a group: those before `route`."""
    names = list(entry)
    return names[: names.index("route")]


def _group(entries: list[dict[str, Any]]) -> GroupRow:
    costs = [None if entry["cost"] is None else Decimal(str(entry["cost"])) for entry in entries]
    first = entries[0]
    return GroupRow(
        name=" · ".join("(none)" if first[key] is None else str(first[key]) for key in _keys(first)),
        rows=_sum(entries, "rows"),
        routed=_sum((entry for entry in entries if entry["route"] is not None), "rows"),
        small=_sum((entry for entry in entries if entry["route"] in ("small", ESCALATED)), "rows"),
        failed=_sum(entries, "failed"),
        tokens=_sum(entries, "input_tokens") + _sum(entries, "output_tokens"),
        cost=None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0)),
    )


def _sum(entries: Iterable[dict[str, Any]], name: str) -> int:
    return sum(entry[name] or 0 for entry in entries)


def choices(night: NightReport) -> list[Choice]:
    """The decisions by group, the largest groups first; none if the night has one decision for all rows."""
    by_group = [choice for choice in night.choices if choice.group is not None]
    return sorted(by_group, key=lambda choice: (-choice.rows, choice.group or ""))


def policies(night: NightReport) -> list[PolicyRow]:
    """Tonight as measured, tonight as expected, and the forecasts for other policies."""
    cost, saved = night.cost, night.cost.savings
    rows = [
        PolicyRow(
            "tonight", policy_words(night), cost.routed, cost.kept, cost.total_cost, None,
            None if saved is None else saved.usd, None if saved is None else saved.share, audited(night),
        )
    ]  # fmt: skip
    forecasts = [] if night.expected is None else [("expected", night.expected)]
    for kind, forecast in [*forecasts, *(("instead", other) for other in night.alternatives)]:
        rows.append(
            PolicyRow(
                kind, forecast.policy, forecast.rows, forecast.small,
                None if forecast.cost is None else forecast.cost.value, forecast.cost,
                forecast.savings, forecast.savings_share, forecast.drop,
            )
        )  # fmt: skip
    return rows


def policy_words(night: NightReport) -> str:
    """The policy of the night in words."""
    whole = [choice for choice in night.choices if choice.group is None]
    if whole:
        return f"{whole[0].policy}{_when(night)}"
    if night.by is not None:
        return f"by {night.by}{_when(night)}"
    return ", ".join(f"{key} {value}" for key, value in night.policy.items() if value is not None)


def _when(night: NightReport) -> str:
    return ", decided after the small model" if night.after else ""


def threshold(night: NightReport) -> list[float]:
    """The thresholds in use, sorted: one, one for each group, or none."""
    return sorted({choice.threshold for choice in night.choices if choice.threshold is not None})
