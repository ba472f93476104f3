"""`batchroute what-if`: cost and quality drop of other policies, from the scores and costs of a committed output."""

from __future__ import annotations

import dataclasses
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

DECIDE = "decide"
_WAYS = ("before", "after")
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
    checked = [_asked(rule) for rule in rules]
    output = folder_at(uri, storage_options)
    committed = manifest.read(output)
    if committed is None:
        raise InputError(f"{output} is not committed: 'batchroute plan JOB.yaml' shows what a run would do")
    night = NightReport.of(output)
    frame, forecasts, views = read(uri, storage_options), [], dict[str, Outlook]()
    for way, rule in checked:
        way = way or ("after" if night.after else "before")
        if way not in views:
            views[way] = _outlook(frame, committed, night, way)
        forecasts.append(_forecast_of(views[way], rule or _own_rule(night), night))
    return WhatIf(night, forecasts)


def _asked(text: str) -> tuple[str | None, Rule | None]:
    """The way and the rule, None for those of the night: `small_share=70%`, `decide=before`, or both with a comma."""
    way, rule = None, None
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if key == DECIDE and value in _WAYS and way is None:
            way = value
        elif equals and key in RULES and rule is None:
            rule = _rule_of(text, key, value)
        else:
            raise InputError(
                f"--policy {text}: write it as key=value, for example small_share=70%, with decide=before or "
                f"decide=after before a comma if you like; keys: {', '.join(RULES)}"
            )
    return way, rule


def _own_rule(night: NightReport) -> Rule:
    """Raises:
    InputError: the night's policy was by group.
    """
    given = {key: value for key, value in night.policy.items() if key in (*RULES, "rule") and value is not None}
    if not given:
        raise InputError(
            f"--policy {DECIDE}: the night had a policy by group: add a rule, as in decide=after,small_share=70%"
        )
    return Rule.model_validate(given)


def _rule_of(text: str, key: str, value: str) -> Rule:
    try:
        return Rule.model_validate({key: value})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"--policy {text}: {reason[0].lower()}{reason[1:]}") from error


def _forecast_of(view: Outlook, rule: Rule, night: NightReport) -> Forecast:
    if rule.max_quality_drop is not None and view.calibration is None:
        raise InputError(f"--policy {rule.words}: the run had no calibration; calibrate the router before the next run")
    if rule.budget is not None and None in view.costs.values():
        raise InputError(
            f"--policy {rule.words}: the run has no price of one of the models, or no time for one by the hour"
        )
    policy = Policy.model_validate(rule.model_dump(exclude_none=True))
    words = rule.words if view.after == night.after else f"{rule.words}, decided {'after' if view.after else 'before'}"
    return view.forecast(decide(policy, view.rows(), view.calibration, view.spent).small, words)


def _outlook(frame: pl.LazyFrame, committed: Manifest, night: NightReport, way: str) -> Outlook:
    """The rows of the output; on the model that answered it, each row has its real cost.

    Raises:
        InputError: the output has no confidences, or no scores, to decide by.
    """
    prefix = committed.settings.get("output", {}).get("prefix", "")
    after = way == "after"
    if after and not night.after:
        raise InputError(
            f"--policy {DECIDE}=after: the small model has not answered all rows of this night, which decided before: "
            "only a night that decided after shows what its answers tell"
        )
    columns = [pl.col(prefix + name).alias(name) for name in _COLUMNS if not (after and name == "score")]
    columns += [pl.col(f"{prefix}confidence").alias("score")] if after else []
    rows = frame.select(columns).collect()
    if not after and night.after and rows["score"].null_count() == len(rows):
        raise InputError(f"--policy {DECIDE}=before: the night had no router, so that its rows have no scores")
    routable = rows["route"].is_not_null().to_numpy()
    # The router gave rows without a score no number.
    scores = rows["score"].fill_null(float("nan")).to_numpy().astype(np.float32)
    paid = np.array([0 if cost is None else pico(cost) for cost in rows["cost"]], np.int64)
    copies = (rows["attempts"].fill_null(0) == 0).to_numpy()
    by_small = (rows["route"] == "small").fill_null(False).to_numpy()
    by_large = (rows["route"] == "large").fill_null(False).to_numpy()
    # Where answers decided, the other rows of the small model have the large one's answer and tokens.
    on_small = by_small if night.after else routable & ~by_large
    usages = _usages(night)
    tokens = _router_tokens(rows, on_small, usages)
    costs: dict[Side, ModelCosts | None] = {}
    for side in SIDES:
        ran = on_small if side == "small" else ~on_small
        costs[side] = _costs(night, committed, side, tokens, ran, paid, copies)
    if night.after:
        costs = _of_both(costs, paid, both=routable & ~by_small & ~by_large)
    total = night.cost.total_cost
    spent = 0 if total is None else pico(total) - int(paid.sum())
    calibration = night.calibration if after == night.after else None
    gains = gains_of(scores, tokens, calibration)
    return Outlook(scores, routable, gains, costs, calibration, spent, len(rows), after=after)


def _of_both(
    costs: dict[Side, ModelCosts | None], paid: NDArray[np.int64], both: NDArray[np.bool_]
) -> dict[Side, ModelCosts | None]:
    """Split what rows of both models cost: the small model's part is what its answers cost on average."""
    small, large = costs["small"], costs["large"]
    if small is None or large is None:
        return costs
    of_small = np.where(both, np.minimum(small.picos, paid), small.picos)
    of_large = np.where(both, paid - of_small, large.picos)
    return {
        "small": dataclasses.replace(small, picos=of_small, least=np.minimum(of_small, small.least)),
        "large": dataclasses.replace(large, picos=of_large, least=np.minimum(of_large, large.least)),
    }


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
    """Of each model; where answers decided, the large model's rows are those that it answered after the small one."""
    cost = night.cost
    usages: dict[Side, ModelUsage] = {side: cost.models[side] for side in SIDES}
    if night.after:
        again = [part.usage for part in (cost.escalated, cost.deferred) if part is not None]
        again += [] if cost.calibration is None else [cost.calibration["large"]]
        names = ("answered", "input_tokens", "output_tokens", "router_tokens", "busy_seconds")
        total = {name: sum(getattr(usage, name) for usage in (usages["large"], *again)) for name in names}
        usages["large"] = usages["large"].model_copy(update=total)
    return usages


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
        small=cost.kept,
        small_share=cost.cost_advantage or 0.0,
        cost=None if total is None else Range(value=total, low=total, high=total),
        savings=None if savings is None else float(savings.usd),
        savings_share=None if savings is None or savings.share is None else float(savings.share),
        drop=None if night.expected is None else night.expected.drop,
    )
