"""`batchroute what-if`: cost and quality drop of other policies, from the scores and costs of a committed output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Console

from batchroute.costs.prices import pico
from batchroute.costs.usage import ModelUsage
from batchroute.errors import InputError
from batchroute.fields import SIDES, Side
from batchroute.policy.decision import decide
from batchroute.policy.expected_costs import ModelCosts, model_costs
from batchroute.policy.forecast import Forecast, Range
from batchroute.policy.outlook import Outlook, gains_of
from batchroute.policy.settings import RULES, Policy, Rule
from batchroute.reports.console import policies
from batchroute.reports.night import NightReport
from batchroute.router.calibration.lengths import Lengths, Line
from batchroute.storage import manifest
from batchroute.storage.manifest import Manifest
from batchroute.storage.objects import folder_at
from batchroute.storage.reading import read

_COLUMNS = ("route", "score", "cost", "input_tokens", "output_tokens", "attempts")


@dataclass(frozen=True)
class WhatIf:
    """Attributes:
    night: the report of the run.
    forecasts: one for each other policy, in the caller's order.
    """

    night: NightReport
    forecasts: list[Forecast]


def what_if(uri: str, rules: Sequence[str], storage_options: Mapping[str, Any] | None = None) -> WhatIf:
    """Decide again by other policies, each `key=value`. A row that keeps its model keeps its real cost; for a row that
    changes models, the other model is assumed to read and write as many tokens as on its own rows of that night.

    Raises:
        InputError: the output is not committed, or a policy is wrong or needs a calibration or price that is missing.
    """
    checked = [_rule_of(rule) for rule in rules]
    output = folder_at(uri, storage_options)
    committed = manifest.read(output)
    if committed is None:
        raise InputError(f"{output} is not committed: 'batchroute plan JOB.yaml' shows what a run would do")
    night = NightReport.of(output)
    view = _outlook(read(uri, storage_options), committed, night)
    return WhatIf(night, [_forecast_of(view, rule, night) for rule in checked])


def _rule_of(text: str) -> Rule:
    key, equals, value = text.partition("=")
    if not equals or key not in RULES:
        raise InputError(
            f"--policy {text}: write it as key=value, for example small_share=70%; keys: {', '.join(RULES)}"
        )
    try:
        return Rule.model_validate({key: value})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"--policy {text}: {reason[0].lower()}{reason[1:]}") from error


def _forecast_of(view: Outlook, rule: Rule, night: NightReport) -> Forecast:
    if rule.max_quality_drop is not None and night.calibration is None:
        raise InputError(f"--policy {rule.words}: the run had no calibration; calibrate the router before the next run")
    if rule.budget is not None and None in view.costs.values():
        raise InputError(
            f"--policy {rule.words}: the run has no price of one of the models, or no time for one by the hour"
        )
    policy = Policy.model_validate(rule.model_dump(exclude_none=True))
    return view.forecast(decide(policy, view.rows(), night.calibration, view.spent).small, rule.words)


def _outlook(frame: pl.LazyFrame, committed: Manifest, night: NightReport) -> Outlook:
    """The rows of the output; on the model that answered it, each row has its real cost."""
    prefix = committed.settings.get("output", {}).get("prefix", "")
    rows = frame.select(pl.col(prefix + name).alias(name) for name in _COLUMNS).collect()
    routable = rows["route"].is_not_null().to_numpy()
    # The router gave rows without a score no number.
    scores = rows["score"].fill_null(float("nan")).to_numpy().astype(np.float32)
    on_small = (rows["route"] != "large").fill_null(False).to_numpy()
    paid = np.array([0 if cost is None else pico(cost) for cost in rows["cost"]], np.int64)
    copies = (rows["attempts"].fill_null(0) == 0).to_numpy()
    usages = _usages(night)
    tokens = _router_tokens(rows, on_small, usages)
    costs: dict[Side, ModelCosts | None] = {}
    for side in SIDES:
        ran = on_small if side == "small" else ~on_small
        costs[side] = _costs(night, committed, side, tokens, ran, paid, copies)
    total = night.cost.total_cost
    spent = 0 if total is None else pico(total) - int(paid.sum())
    gains = gains_of(scores, tokens, night.calibration)
    return Outlook(scores, routable, gains, costs, night.calibration, spent, len(rows))


def _costs(
    night: NightReport,
    committed: Manifest,
    side: Side,
    tokens: NDArray[np.int32],
    ran: NDArray[np.bool_],
    paid: NDArray[np.int64],
    copies: NDArray[np.bool_],
) -> ModelCosts | None:
    longest = committed.settings["models"][side]["generation"]["max_new_tokens"]
    expected = model_costs(night.prices.get(side), _lengths(night, side, longest), tokens, longest)
    if expected is None:
        return None
    # A copy costs nothing on either model, since its original goes to the same model.
    real = np.where(copies, 0, np.where(ran, paid, expected.picos))
    return ModelCosts(real, expected.error, expected.spread, expected.measured, np.minimum(real, expected.least))


def _lengths(night: NightReport, side: Side, longest: int) -> Lengths:
    """Token counts from the model's own rows that night; without such rows the calibration's, or else the limit."""
    usage = _usages(night)[side]
    answered, read_and_written = usage.answered, usage.input_tokens + usage.output_tokens
    if answered and usage.router_tokens:
        return Lengths(
            prompts=answered,
            input=Line(base=0.0, per_token=usage.input_tokens / usage.router_tokens),
            output=Line(base=usage.output_tokens / answered, per_token=0.0),
            seconds_per_token=usage.busy_seconds / read_and_written if read_and_written else None,
        )
    known = night.calibration
    return known.lengths[side] if known is not None and side in known.lengths else Lengths.at_most(longest)


def _router_tokens(
    rows: pl.DataFrame, on_small: NDArray[np.bool_], usages: dict[Side, ModelUsage]
) -> NDArray[np.int32]:
    """Estimate the router's token count of each prompt: the tokens that the row's model read, divided by its rate."""
    rates = {side: usage.input_tokens / max(1, usage.router_tokens) or 1.0 for side, usage in usages.items()}
    read = rows["input_tokens"].fill_null(0).to_numpy().astype(np.float64)
    return np.rint(read / np.where(on_small, rates["small"], rates["large"])).astype(np.int32)


def _usages(night: NightReport) -> dict[Side, ModelUsage]:
    return {side: night.cost.models[side] for side in SIDES}


def show(result: WhatIf) -> None:
    """Print the night as it was, and the other policies below."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    night = result.night
    console.print(f"{night.name}, run {night.run_id}: the night as it was, and as it would have been", highlight=False)
    console.print(policies([_as_it_was(night), *result.forecasts]))
    console.print(
        "Rows that keep their model keep their real cost; for the others, the other model is assumed to read and write "
        "as it did on its own rows.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _as_it_was(night: NightReport) -> Forecast:
    cost = night.cost
    total = None if cost.total_cost is None else float(cost.total_cost)
    savings = cost.savings
    return Forecast(
        policy=f"{'by group' if night.by else night.choices[0].policy if night.choices else 'unknown'}, as it was",
        rows=cost.routed,
        small=cost.models["small"].rows,
        small_share=cost.cost_advantage or 0.0,
        cost=None if total is None else Range(value=total, low=total, high=total),
        savings=None if savings is None else float(savings.usd),
        savings_share=None if savings is None or savings.share is None else float(savings.share),
        drop=None if night.expected is None else night.expected.drop,
    )
