"""A night in one flat record: the last line of the JSON log, and the body of a webhook."""

from __future__ import annotations

from typing import Any

from batchroute.costs.report import CostReport
from batchroute.costs.usage import ModelUsage
from batchroute.reports import headline
from batchroute.reports.night import NightReport


def summary(cost: CostReport, night: NightReport | None) -> dict[str, Any]:
    """Figures for JSON: money in USD as exact text, drops in percent.

    Args:
        night: None if the run was committed without a report of the night; then quality and drift are left out.
    """
    record: dict[str, Any] = {
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
        record["expected_drop"] = None if expected is None else expected.model_dump()
        record["audited_drop"] = None if audited is None else audited.model_dump()
        record["drifted"] = None if night.drift is None else [f.name for f in night.drift.features if f.drifted]
    return record


def _totals(usage: ModelUsage) -> dict[str, Any]:
    """Under the names of OpenTelemetry's conventions for generative AI where there are such."""
    return {
        "gen_ai.request.model": usage.model,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "rows": usage.rows,
        "failed": usage.failed,
        "cost": None if usage.cost is None else str(usage.cost),
        **(_hits(usage) if usage.hits else {}),
    }


def _hits(usage: ModelUsage) -> dict[str, Any]:
    return {"hits": usage.hits, "hit_cost": None if usage.hit_cost is None else str(usage.hit_cost)}
