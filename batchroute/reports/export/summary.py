"""A night in one flat record: the last line of the JSON log, and what a webhook is sent."""

from __future__ import annotations

from typing import Any

from batchroute.costs.report import CostReport
from batchroute.costs.usage import ModelUsage
from batchroute.reports import headline
from batchroute.reports.night import NightReport


def summary(cost: CostReport, night: NightReport | None) -> dict[str, Any]:
    """Figures as JSON has them; money in USD, as text, to the last digit; drops in percent.

    Args:
        night: None for a run that was committed without one: then nothing is said of quality and drift.
    """
    found: dict[str, Any] = {
        "job_name": cost.name,
        "run": cost.run_id,
        "rows": cost.rows,
        **cost.model_dump(mode="json", include={"total_cost", "savings", "missing_prices", "cost_advantage"}),
        "baseline_cost": None if cost.baseline.cost is None else str(cost.baseline.cost),
        "failures": cost.failures,
        "models": {side: _totals(usage) for side, usage in cost.usages.items()},
    }
    if night is not None:
        expected, audited = headline.expected(night), headline.audited(night)
        found["expected_drop"] = None if expected is None else expected.model_dump()
        found["audited_drop"] = None if audited is None else audited.model_dump()
        found["drifted"] = None if night.drift is None else [f.name for f in night.drift.features if f.drifted]
    return found


def _totals(usage: ModelUsage) -> dict[str, Any]:
    """With the names that OpenTelemetry's conventions for generative AI have for them, as far as these have one."""
    return {
        "gen_ai.request.model": usage.model,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "rows": usage.rows,
        "failed": usage.failed,
        "cost": None if usage.cost is None else str(usage.cost),
    }
