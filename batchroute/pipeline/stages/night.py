"""The night: gathers the figures of a run for its report, from the receipts, the decision and the output."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batchroute.costs.report import CostReport
from batchroute.pipeline import layout
from batchroute.pipeline.audit.results import read_audit
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.names import SHARDS
from batchroute.pipeline.stages.decide import read_decision
from batchroute.pipeline.stages.defer import decided_of, read_deferral
from batchroute.pipeline.stages.score import SPREAD
from batchroute.pipeline.stages.scores import floats, tables
from batchroute.pipeline.tonight.basis import Basis
from batchroute.pipeline.tonight.figures import read_tonight
from batchroute.pipeline.tonight.way import read_way
from batchroute.policy.decision import Decided
from batchroute.policy.forecast import Range
from batchroute.policy.settings import Cutoff
from batchroute.reports import headline
from batchroute.reports.night import Choice, Deciding, Failure, Histogram, NightReport, Spread, StageTime
from batchroute.router.calibration.points import Calibration
from batchroute.storage.receipts import Receipt
from batchroute.tables.types import texts

_EXAMPLES = 5


def gather(context: Context, cost: CostReport) -> NightReport:
    """Gather everything that the report shows."""
    # None for a run that an earlier version began.
    record = read_decision(context.work)
    choices, deciding = [_choice(decided) for decided in decided_of(context.work)], _deciding(context, cost)
    return NightReport(
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        cost=cost,
        policy=context.job.policy.model_dump(mode="json", exclude_none=True),
        by=context.job.policy.by,
        choices=choices,
        expected=None if record is None else record.expected,
        alternatives=[] if record is None else record.alternatives,
        curve=None if record is None else record.curve,
        scores=_NO_SCORES if record is None else record.scores,
        audit=read_audit(context),
        drift=None if record is None else record.drift,
        on_drift=None if record is None else record.on_drift,
        stages=list(_stages(context)),
        # `cost` has counted them: without failures no output file is read again.
        failures=_failures(context) if cost.failures else [],
        assumptions=[] if record is None else record.assumptions,
        calibration=_calibration(context),
        deciding=deciding,
        prices={name: resolved.price for name, resolved in context.snapshot.prices.items()},
        spread=_spread(context, choices if deciding is None or deciding.way == "before" else []),
    )


def _deciding(context: Context, cost: CostReport) -> Deciding | None:
    way, tonight = read_way(context.work), read_tonight(context.work)
    if way is None and tonight is None and read_deferral(context.work) is None:
        return None
    named = "before" if not cost.deferred else "after" if way is None else way.way
    skip = None if way is None else way.skip
    of_tonight: dict[str, Any] = {}
    if tonight is not None:
        of_tonight = {
            "drawn": tonight.rows,
            "measured": tonight.measured,
            "metric": tonight.metric,
            "by_likeness": tonight.by_likeness,
        }
    skipped = 0 if skip is None else cost.models["large"].rows
    return Deciding(way=named, why=None if way is None else way.why, skip=skip, skipped=skipped, **of_tonight)


def _calibration(context: Context) -> Calibration | None:
    """What the night was decided by: tonight's figures, a confidence's, or the router's."""
    basis = Basis.before(context) if read_deferral(context.work) is None else Basis.after(context)[0]
    return basis.whole


def _spread(context: Context, choices: list[Choice]) -> Spread | None:
    """How far the router's heads disagreed, from the stored scores: 8 bytes of memory a row.

    Args:
        choices: empty where something else than scores decided.
    """
    scores: list[NDArray[np.float32]] = []
    spreads: list[NDArray[np.float32]] = []
    for table in tables(context) if context.job.router is not None else ():
        if SPREAD.name not in table.column_names:
            return None
        scores.append(floats(table["score"]))
        spreads.append(floats(table[SPREAD.name]))
    score, spread = (np.concatenate([np.empty(0, np.float32), *parts]) for parts in (scores, spreads))
    known = np.isfinite(spread)
    score, spread = score[known], spread[known]
    if len(spread) == 0:
        return None
    median, ninetieth = np.percentile(spread, [50, 90])
    found = Spread(rows=len(spread), median=float(median), ninetieth=float(ninetieth))
    thresholds = {choice.threshold for choice in choices}
    threshold = thresholds.pop() if len(thresholds) == 1 else None
    if threshold is None:
        return found
    near = np.abs(score - threshold) <= spread
    small = int((near & (score >= threshold)).sum())
    return found.model_copy(update={"near": int(near.sum()), "near_small": small})


_NO_SCORES = Histogram(edges=[0.0, 1.0], small=[0], large=[0], unscored=0)


def _choice(decided: Decided) -> Choice:
    cutoff = decided.cutoff
    threshold = None if cutoff is None or cutoff == Cutoff.of_none() else cutoff.score
    return Choice(
        group=decided.group, policy=decided.policy, rows=decided.rows, small=decided.small, threshold=threshold
    )


def _stages(context: Context) -> Iterator[StageTime]:
    """The stages in order; stages without units are left out."""
    read_by_encoders = (layout.SCORE, layout.READ, layout.CALIBRATION_READ)
    measured = (layout.CALIBRATION_READ, layout.CALIBRATED, layout.READ, layout.MEASURED)
    for name in (layout.SCORE, *SHARDS, *measured, layout.MERGE):
        receipts = list(context.work.stage(name).receipts().values())
        if receipts:
            read = "tokens" if name in read_by_encoders else "input_tokens"
            yield StageTime(
                name=name,
                units=len(receipts),
                rows=sum(receipt.rows for receipt in receipts),
                seconds=sum(receipt.seconds for receipt in receipts),
                load_seconds=sum(receipt.load_seconds for receipt in receipts),
                input_tokens=_count(receipts, read),
                output_tokens=_count(receipts, "output_tokens"),
            )


def _count(receipts: list[Receipt], name: str) -> int:
    return sum(receipt.counts.get(name, 0) for receipt in receipts)


def _failures(context: Context) -> list[Failure]:
    """Failures by error type, the most frequent first, each with its first few rows."""
    column = context.job.output.prefix + "error_type"
    data = context.work.output.folder("data")
    rows: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    for part in context.work.stage(layout.MERGE).receipts().values():
        file = data.parquet(part.file, part.bytes)
        kinds = pq.read_table(file, columns=[column], partitioning=None)[column]
        if kinds.null_count == len(kinds):
            continue
        wanted: dict[int, str] = {}
        for at, kind in enumerate(kinds.to_pylist()):
            if kind is None:
                continue
            rows[kind] = rows.get(kind, 0) + 1
            if rows[kind] <= _EXAMPLES:
                wanted[at] = kind
        for kind, name in _names(context, part, wanted):
            examples.setdefault(kind, []).append(name)
    ordered = sorted(rows, key=lambda kind: (-rows[kind], kind))
    return [Failure(error_type=kind, rows=rows[kind], examples=examples[kind]) for kind in ordered]


def _names(context: Context, part: Receipt, wanted: dict[int, str]) -> Iterator[tuple[str, str]]:
    """The error type and the id of rows of a part; without an id column, file and row number."""
    column = context.job.input.id
    if column is None:
        yield from ((kind, context.table.where(part.first + at)) for at, kind in wanted.items())
    elif wanted:
        file = context.work.output.folder("data").parquet(part.file, part.bytes)
        ids = pq.read_table(file, columns=[column], partitioning=None)[column].take(list(wanted))
        for kind, name in zip(wanted.values(), texts(ids.combine_chunks()), strict=True):
            yield kind, str(name)


def quality(night: NightReport) -> dict[str, object]:
    """The manifest's `quality`: the figures of a night from which a trend over many nights is drawn."""
    drift = night.drift
    return {
        "cost_advantage": night.cost.cost_advantage,
        "expected_drop": _range(headline.expected(night)),
        "audited_drop": _range(headline.audited(night)),
        "drift": None if drift is None else {"drifted": drift.drifted, "features": _features(night)},
    }


def _range(range_: Range | None) -> dict[str, float] | None:
    return None if range_ is None else range_.model_dump()


def _features(night: NightReport) -> list[dict[str, object]]:
    assert night.drift is not None
    return [feature.model_dump(exclude={"words"}) for feature in night.drift.features]
