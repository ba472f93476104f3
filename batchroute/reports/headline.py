"""The night in one sentence: what it cost, what it saved, and what that did to quality, as far as each is known."""

from __future__ import annotations

from batchroute.costs.report import CostReport
from batchroute.policy.forecast import Range
from batchroute.reports import words
from batchroute.reports.night import NightReport


def headline(night: NightReport) -> str:
    """One sentence, plain text."""
    cost = night.cost
    total = cost.rows["total"]
    if total == 0:
        return "The input is empty; so is the output."
    routed = sum(usage.rows for usage in cost.models.values())
    if routed == 0:
        return f"No model was asked: none of the {words.plural(total, 'row')} has a usable prompt."
    return f"{_cost(cost, total, routed)}; {_quality(night)}."


def audited(night: NightReport) -> Range | None:
    """The quality drop that the audit measured, percent."""
    found = night.audit
    if found is None or found.drop is None or found.low is None or found.high is None:
        return None
    return Range(value=found.drop, low=found.low, high=found.high)


def expected(night: NightReport) -> Range | None:
    """The quality drop that the calibration led to expect, percent."""
    return None if night.expected is None else night.expected.drop


def _cost(cost: CostReport, total: int, routed: int) -> str:
    begin = f"Routing {words.plural(total, 'prompt')}"
    if cost.total_cost is None:
        sent = words.of(cost.models["small"].rows, routed)
        missing = ", ".join(cost.missing_prices)
        return f"{begin} sent {sent} to the small model, at a cost that is not known (missing: {missing})"
    begin = f"{begin} cost {words.usd(cost.total_cost)}"
    if cost.savings is None:
        return f"{begin}, and what it saved is not known"
    saved = cost.savings.usd
    if saved == 0:
        return f"{begin}, as much as the large model alone"
    share = "" if cost.savings.share is None else f" ({words.share(abs(cost.savings.share))})"
    if saved < 0:
        return f"{begin}, {words.usd(-saved)}{share} more than the large model alone"
    return f"{begin} and saved {words.usd(saved)}{share} against the large model alone"


def _quality(night: NightReport) -> str:
    measured, forecast = audited(night), expected(night)
    if night.cost.models["small"].rows == 0:
        return "quality is the large model's, which answered every row"
    if measured is not None and night.audit is not None:
        rows = words.plural(night.audit.measured, "row")
        return f"quality is {words.quality(measured.value)} ({words.quality_interval(measured)}, audited on {rows})"
    if forecast is not None:
        of = f"{words.quality(forecast.value)} ({words.quality_interval(forecast)}, from the calibration)"
        return f"quality is expected to be {of}"
    return "what that did to quality is not known"
