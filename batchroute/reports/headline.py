"""The night in one sentence: its cost, its savings and its quality, as far as each is known."""

from __future__ import annotations

from batchroute import words
from batchroute.costs.report import CostReport
from batchroute.policy.forecast import Range
from batchroute.reports import drops
from batchroute.reports.night import NightReport


def headline(night: NightReport) -> str:
    """One sentence, plain text."""
    cost = night.cost
    total = cost.rows["total"]
    if total == 0:
        return "The input is empty, and so is the output."
    if cost.routed == 0:
        return f"No model was called: none of the {words.plural(total, 'row')} has a usable prompt."
    return f"{_cost(cost)}; {_quality(night)}."


def against_random(night: NightReport) -> str:
    """What the router is worth: the expected drop next to that of as many rows drawn at random; empty if not known.

    Of random rows the drop grows evenly with their share, up to the drop of all rows on the small model.
    """
    forecast, curve = night.expected, night.curve
    if forecast is None or forecast.drop is None or curve is None or curve.drop is None or curve.small_share[-1] != 1:
        return ""
    if not 0 < forecast.small < forecast.rows:
        return ""
    random = forecast.small_share * curve.drop[-1]
    gain = random - forecast.drop.value
    than = "less" if gain >= 0 else "more"
    what = "likeness to the large model" if _by_likeness(night) else "quality"
    chosen = "by the confidence of their answers" if night.after else "as the router chose them"
    return (
        f"By the calibration, {words.plural(forecast.small, 'row')} on the small model lose {words.percent(random)} of "
        f"{what} if drawn at random, and {drops.with_interval(forecast.drop)} {chosen}: "
        f"{words.number(abs(gain))} points {than}."
    )


def audited(night: NightReport) -> Range | None:
    """The quality drop that the audit measured, percent."""
    audit = night.audit
    if audit is None or audit.drop is None or audit.low is None or audit.high is None:
        return None
    return Range(value=audit.drop, low=audit.low, high=audit.high)


def expected(night: NightReport) -> Range | None:
    """The quality drop that the calibration predicted, percent."""
    return None if night.expected is None else night.expected.drop


def expected_how(night: NightReport) -> str:
    """How the expected drop was made, in one word or two."""
    return "expected likeness" if _by_likeness(night) else "expected"


def _by_likeness(night: NightReport) -> bool:
    return night.deciding is not None and night.deciding.by_likeness


def _cost(cost: CostReport) -> str:
    begin = f"Routing {words.plural(cost.rows['total'], 'prompt')}"
    if cost.total_cost is None:
        sent = words.of(cost.kept, cost.routed)
        missing = ", ".join(cost.missing_prices)
        return f"{begin} sent {sent} to the small model, at an unknown cost (missing: {missing})"
    begin = f"{begin} cost {words.money(cost.total_cost)}"
    if cost.savings is None:
        return f"{begin}, and the savings are not known"
    saved = cost.savings.usd
    if saved == 0:
        return f"{begin}, as much as the large model alone"
    share = "" if cost.savings.share is None else f" ({words.share(abs(cost.savings.share))})"
    if saved < 0:
        return f"{begin}, {words.money(-saved)}{share} more than the large model alone"
    return f"{begin} and saved {words.money(saved)}{share} against the large model alone"


def _quality(night: NightReport) -> str:
    measured, forecast = audited(night), expected(night)
    if night.cost.kept == 0 and night.cost.rows["small"] == 0:
        return "quality is the large model's, which answered every row"
    if measured is not None and night.audit is not None:
        rows = words.plural(night.audit.measured, "row")
        what = "likeness to the large model" if night.audit.likeness else "quality"
        return f"{what} is {drops.quality(measured.value)} ({drops.quality_interval(measured)}, audited on {rows})"
    if forecast is not None:
        change, interval = drops.quality(forecast.value), drops.quality_interval(forecast)
        deciding = night.deciding
        if deciding is None or deciding.drawn is None:
            return f"quality is expected to be {change} ({interval}, from the calibration)"
        rows = words.plural(deciding.measured, "row")
        what = "likeness to the large model" if deciding.by_likeness else "quality"
        return f"{what} is expected to be {change} ({interval}, from {rows} of the night itself)"
    return "the effect on quality is not known"
