"""Deciding: once all rows are scored, whether tonight's prompts drift from the calibration's, and which go to small."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from batchroute.config.job import Job
from batchroute.errors import InputError, StoppedError
from batchroute.fields import SIDES
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context, Snapshot
from batchroute.pipeline.expectations import assumptions, lengths_of, outlook
from batchroute.pipeline.identity import known_calibration
from batchroute.pipeline.stages.scores import Sample, Stretch, _tables, stored
from batchroute.policy.decision import Decided, Decision, Groups, RowsToRoute, all_large, decide
from batchroute.policy.forecast import Curve, Forecast
from batchroute.policy.outlook import Outlook
from batchroute.reports.night import Histogram
from batchroute.router.drift.measure import Drift, Night, measure
from batchroute.router.drift.reference import Reference
from batchroute.storage.workdir import Workdir
from batchroute.tables.parquet import PromptTable
from batchroute.tables.types import texts

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
        if not price.by_token and lengths_of(model, side, calibration).seconds_per_token is None:
            raise InputError(
                f"policy.budget: models.{side}.price is by gpu_hour, and how long a row takes is not known; calibrate "
                "the router on a table that 'batchroute label' made with this pair, or give a price by token"
            )


def decide_on(context: Context) -> Decision:
    """Decide on all rows. Deterministic: a second attempt decides the same.

    Raises:
        InputError: a budget does not pay for the cheapest way to answer all rows.
        StoppedError: the prompts drift from the calibration's, and `policy.on_drift` is stop.
    """
    policy = context.job.policy
    scored = stored(context)
    groups = None if policy.by is None else groups_of(context.table, policy.by)
    view, shown = _outlook(context, scored)
    whole = len(shown) == len(scored.scores)
    rows = view.rows(groups) if whole else RowsToRoute(scored.scores, scored.routable, groups)
    drift = _drift(context)
    drifted = drift is not None and drift.drifted
    on_drift = (policy.on_drift or "warn") if drifted else None
    if drift is not None and drifted:
        context.engine.progress.note("drift", f"{drift.sentence()} {_CONSEQUENCES[policy.on_drift or 'warn']}")
        if on_drift == "stop":
            raise StoppedError(
                f"{drift.sentence()} Stopped, since policy.on_drift is stop: look at the input, then run again with "
                "--set policy.on_drift=warn to go on, or calibrate the router again"
            )
    if on_drift == "large":
        decision = all_large(rows, "all to large, on drift")
    else:
        decision = decide(policy, rows, view.calibration, view.spent)
    record = DecisionRecord(
        decided=decision.decided,
        expected=view.forecast(decision.small[shown], policy_words(decision)),
        alternatives=view.alternatives(),
        curve=view.curve(),
        scores=histogram(scored, decision.small),
        drift=drift,
        on_drift=on_drift,
        assumptions=assumptions(context.job, view.calibration),
    )
    context.work.put_json(layout.DECISION, record.model_dump(mode="json"))
    return decision


def _outlook(context: Context, scored: Sample) -> tuple[Outlook, npt.NDArray[np.intp]]:
    """The outlook over all rows where the policy has a budget, else over a sample; and the rows that it is made of."""
    rows = np.arange(len(scored.scores))
    if len(rows) > _ENOUGH and all(rule.budget is None for _, rule in context.job.policy.rules()):
        rows = np.sort(np.random.default_rng(0).choice(len(rows), _ENOUGH, replace=False))
        scored = scored.thinned(rows)
    return outlook_of(context, scored), rows


_CONSEQUENCES = {
    "warn": "The router may be less accurate than its calibration says.",
    "large": "All rows go to the large model, since policy.on_drift is large.",
    "stop": "",
}


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


def groups_of(table: PromptTable, column: str, stretches: list[Stretch] | None = None) -> Groups:
    """The values of a column, as text, in all rows or in the given stretches of positions."""
    reader = table.reader([column])
    numbers: dict[str | None, int] = {}
    codes = [np.empty(0, np.int32)]
    for start, stop in stretches or [(0, table.rows)]:
        for batch in reader.read(start, stop):
            encoded = pa.chunked_array([batch.column(0)]).combine_chunks()
            encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
            names = [*texts(encoded.dictionary), None]
            known = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32)
            # Nulls get the last code, whose name is None.
            codes.append(known[encoded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)])
    return Groups(list(numbers), np.concatenate(codes))


def outlook_of(context: Context, scored: Sample) -> Outlook:
    """The outlook of the whole run, from scored rows."""
    return outlook(
        context.job,
        {side: context.snapshot.price(side) for side in SIDES},
        known_calibration(context.job),
        scored.scores,
        scored.routable,
        scored.tokens,
        scored.spent,
        context.snapshot.rows,
    )


def _drift(context: Context) -> Drift | None:
    router = context.job.router
    reference = None if router is None else Reference.of(router.model)
    return None if reference is None else measure(reference, Night.gather(_tables(context)))
