"""Deciding: once all rows are scored, whether tonight's prompts drift from the calibration's, and which go to small."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.fields import SIDES
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context, Snapshot
from batchroute.pipeline.expectations import assumptions, lengths_of, outlook
from batchroute.pipeline.groups import groups_of
from batchroute.pipeline.identity import known_calibration
from batchroute.pipeline.stages.drift import drift_of
from batchroute.pipeline.stages.scores import Sample, stored
from batchroute.pipeline.tonight.basis import Basis, spent_on_calibration, taken_rows
from batchroute.policy.decision import Decided, Decision, RowsToRoute, all_large, decide
from batchroute.policy.forecast import Curve, Forecast
from batchroute.policy.outlook import Outlook
from batchroute.reports.night import Histogram
from batchroute.router.calibration.points import Calibration
from batchroute.router.drift.measure import Drift
from batchroute.storage.workdir import Workdir

Mask = npt.NDArray[np.bool_]

_BINS = 20
# Rows that a forecast is made of: with this many, the error of sampling is negligible.
_ENOUGH = 200_000


class DecisionRecord(BaseModel):
    """The decision, and the forecast that it was made by, before anything is generated.

    Attributes:
        drift: None where the router has no reference.
        on_drift: the consequence of drift; None without drift.
    """

    model_config = ConfigDict(frozen=True)

    decided: list[Decided]
    expected: Forecast
    alternatives: list[Forecast]
    curve: Curve | None
    scores: Histogram
    drift: Drift | None
    on_drift: str | None
    assumptions: list[str]

    def put(self, work: Workdir) -> None:
        work.put_json(layout.DECISION, self.model_dump(mode="json"))


def read_decision(work: Workdir) -> DecisionRecord | None:
    """None until the decision is made, and for a run that an earlier version began."""
    tree = work.read_json(layout.DECISION)
    return None if tree is None else DecisionRecord.model_validate(tree)


def check_budget(job: Job, snapshot: Snapshot) -> None:
    """Raises:
    InputError: the policy has a budget, but the cost of a row is not known.
    """
    if all(rule.budget is None for _, rule in job.policy.rules()):
        return
    calibration = known_calibration(job)
    for side in SIDES:
        price, model = snapshot.price(side), job.models.of(side)
        if price is None:
            raise InputError(
                f"policy.budget needs the price of the {side} model ({snapshot.prices[side].source}): set "
                f"models.{side}.price, or name a list under prices that has it"
            )
        if (
            job.policy.calibrate is None
            and not price.by_token
            and lengths_of(model, side, calibration).seconds_per_token is None
        ):
            raise InputError(
                f"policy.budget: models.{side}.price is by gpu_hour, and how long a row takes is not known; calibrate "
                "the router on a table that 'batchroute label' made with this pair, or give a price by token"
            )


def decide_on(context: Context) -> Decision:
    """Decide on all rows by their scores. Deterministic: a second attempt decides the same.

    Raises:
        InputError: a budget does not pay for the cheapest way to answer all rows.
    """
    basis, scored = Basis.before(context), stored(context)
    taken = taken_rows(context)
    scored.scores[taken] = np.nan
    scored = dataclasses.replace(scored, spent=scored.spent + spent_on_calibration(context))
    drift, on_drift = drift_of(context)
    decision, record = decided(context, scored, basis, taken, drift, on_drift)
    record.put(context.work)
    return decision


def decided(
    context: Context,
    scored: Sample,
    basis: Basis,
    taken: Mask,
    drift: Drift | None,
    on_drift: str | None,
    paid: npt.NDArray[np.int64] | None = None,
) -> tuple[Decision, DecisionRecord]:
    """Decide on all rows; the record is not put yet.

    Args:
        scored: all rows, with router's scores or, once the small model has answered, confidences.
        taken: rows of tonight's calibration, which have no score here.
        paid: see `outlook`; for every row.
    """
    policy = context.job.policy
    groups = None if policy.by is None else groups_of(context.table, policy.by)
    shown = _rows_to_show(context, len(scored.scores))
    view = outlook_of(context, scored.thinned(shown), basis.whole, taken[shown], None if paid is None else paid[shown])
    whole = len(shown) == len(scored.scores)
    rows = view.rows(groups) if whole else RowsToRoute(scored.scores, scored.routable, groups)
    if on_drift == "large":
        decision = all_large(rows, "all to large, on drift")
    else:
        decision = decide(policy, rows, basis.by_group, view.spent)
    record = DecisionRecord(
        decided=decision.decided,
        expected=view.forecast(decision.small[shown], policy_words(decision)),
        alternatives=view.alternatives(),
        curve=view.curve(),
        scores=histogram(scored, decision.small),
        drift=drift,
        on_drift=on_drift,
        assumptions=[
            *overspent(decision.decided),
            *assumptions(context.job, view.calibration, tonight=policy.calibrate is not None),
        ],
    )
    return decision, record


def overspent(decided: list[Decided]) -> list[str]:
    """A sentence for each budget that the small model's answers have broken."""
    return [
        f"{'' if one.group is None else f'{one.group}: '}{one.policy} was spent before a row could be deferred: the "
        "small model's answers to all rows, and a calibration, cost more"
        for one in decided
        if one.overspent
    ]


def _rows_to_show(context: Context, rows: int) -> npt.NDArray[np.intp]:
    """The rows that the forecast is made of: all where the policy has a budget, else a sample."""
    if rows <= _ENOUGH or any(rule.budget is not None for _, rule in context.job.policy.rules()):
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, _ENOUGH, replace=False))


def policy_words(decision: Decision) -> str:
    if len(decision.decided) == 1:
        return decision.decided[0].policy
    return ", ".join(f"{decided.group}: {decided.policy}" for decided in decision.decided)


def histogram(scored: Sample, small: npt.NDArray[np.bool_]) -> Histogram:
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    known = scored.routable & ~np.isnan(scored.scores)
    counts = [np.histogram(scored.scores[known & mine], edges)[0].tolist() for mine in (small, ~small)]
    unscored = int((scored.routable & ~known).sum())
    return Histogram(edges=edges.tolist(), small=counts[0], large=counts[1], unscored=unscored)


def outlook_of(
    context: Context,
    scored: Sample,
    calibration: Calibration | None,
    taken: Mask | None = None,
    paid: npt.NDArray[np.int64] | None = None,
) -> Outlook:
    """The outlook of the whole run, from scored rows. For the arguments see `outlook`."""
    return outlook(
        context.job,
        {side: context.snapshot.price(side) for side in SIDES},
        calibration,
        scored.scores,
        scored.routable,
        scored.tokens,
        scored.spent,
        context.snapshot.rows,
        taken if taken is not None and taken.any() else None,
        paid,
    )
