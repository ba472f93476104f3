"""What if: what another policy would have cost and lost, from the scores and the costs of a committed output."""

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
    night: as it came out.
    forecasts: of the other policies, in the order that they were asked for.
    """

    night: NightReport
    forecasts: list[Forecast]


def what_if(uri: str, asked: Sequence[str], storage_options: Mapping[str, Any] | None = None) -> WhatIf:
    """Decide anew by other policies, each `key=value`. Rows that would stay where they are keep their real cost; for
    those that would move the other model is taken to read and write as it did on its own rows that night.

    Raises:
        InputError: the output is not committed, or a policy is wrong, or needs what the output does not tell.
    """
    rules = [_way(policy) for policy in asked]
    output = folder_at(uri, storage_options)
    committed = manifest.read(output)
    if committed is None:
        raise InputError(f"{output} is not committed: 'batchroute plan JOB.yaml' tells what a run would do")
    night = NightReport.of(output)
    view = _outlook(read(uri, storage_options), committed, night)
    return WhatIf(night, [_forecast(view, rule, night) for rule in rules])


def _way(asked: str) -> Rule:
    key, equals, value = asked.partition("=")
    if not equals or key not in RULES:
        raise InputError(
            f"--policy {asked}: write it as key=value, for example small_share=70%; keys: {', '.join(RULES)}"
        )
    try:
        return Rule.model_validate({key: value})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"--policy {asked}: {reason[0].lower()}{reason[1:]}") from error


def _forecast(view: Outlook, rule: Rule, night: NightReport) -> Forecast:
    if rule.max_quality_drop is not None and night.calibration is None:
        raise InputError(
            f"--policy {rule.words}: the run had no calibration to go by; calibrate the router for the next"
        )
    if rule.budget is not None and None in view.costs.values():
        raise InputError(
            f"--policy {rule.words}: the run has no price of one of the models, or no time for one by the hour"
        )
    policy = Policy.model_validate(rule.model_dump(exclude_none=True))
    return view.forecast(decide(policy, view.rows(), night.calibration, view.spent).small, rule.words)


def _outlook(frame: pl.LazyFrame, committed: Manifest, night: NightReport) -> Outlook:
    """Of the rows of the output, with their real costs where they ran."""
    prefix = committed.settings.get("output", {}).get("prefix", "")
    rows = frame.select(pl.col(prefix + name).alias(name) for name in _COLUMNS).collect()
    routable = rows["route"].is_not_null().to_numpy()
    # A score that is missing is a row that the router gave no number.
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
    found = model_costs(night.prices.get(side), _lengths(night, side, longest), tokens, longest)
    if found is None:
        return None
    # A copy costs nothing on either model, as long as its original goes where it goes.
    real = np.where(copies, 0, np.where(ran, paid, found.picos))
    return ModelCosts(real, found.error, found.spread, found.measured, np.minimum(real, found.least))


def _lengths(night: NightReport, side: Side, longest: int) -> Lengths:
    """As the model's own rows were that night; of a model that had none, as calibrated, or else at the most."""
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
    """About what the router counted in each prompt: what the row's own model read, by that model's rate."""
    rates = {side: usage.input_tokens / max(1, usage.router_tokens) or 1.0 for side, usage in usages.items()}
    read = rows["input_tokens"].fill_null(0).to_numpy().astype(np.float64)
    return np.rint(read / np.where(on_small, rates["small"], rates["large"])).astype(np.int32)


def _usages(night: NightReport) -> dict[Side, ModelUsage]:
    return {side: night.cost.models[side] for side in SIDES}


def show(found: WhatIf) -> None:
    """Print it: the night as it was, and the other policies below."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    night = found.night
    console.print(f"{night.name}, run {night.run_id}: the night as it was, and as it would have been", highlight=False)
    console.print(policies([_as_it_was(night), *found.forecasts]))
    console.print(
        "Rows that stay where they were keep their real cost; for the others the other model reads and writes as it "
        "did on its own rows.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _as_it_was(night: NightReport) -> Forecast:
    cost, routed = night.cost, sum(usage.rows for usage in night.cost.models.values())
    total = None if cost.total_cost is None else float(cost.total_cost)
    savings = cost.savings
    return Forecast(
        policy=f"{'by group' if night.by else night.choices[0].policy if night.choices else 'unknown'}, as it was",
        rows=routed,
        small=cost.models["small"].rows,
        small_share=cost.cost_advantage or 0.0,
        cost=None if total is None else Range(value=total, low=total, high=total),
        savings=None if savings is None else float(savings.usd),
        savings_share=None if savings is None or savings.share is None else float(savings.share),
        drop=None if night.expected is None else night.expected.drop,
    )
