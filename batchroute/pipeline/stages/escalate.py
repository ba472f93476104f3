"""Escalation: rows whose answer by the small model is not good enough become a shard of the large model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from batchroute.config.job import JobModel
from batchroute.costs import prices
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.copies import NO_COPIES
from batchroute.pipeline.shards.names import shard_stage
from batchroute.pipeline.shards.writer import ShardWriter
from batchroute.storage.workdir import Workdir

Reason = Literal["failed", "refused", "invalid", "cut", "empty"]
_COLUMNS = ["position", "copy_of", "response", "finish_reason", "error_type", "cost"]


class Escalation(BaseModel):
    """The escalated rows; the file is written when the whole shard is.

    Attributes:
        reasons: rows by the reason why they went on.
        spent_pico: the cost of the small model's answers to them, in pico-dollars.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    units: int
    reasons: dict[str, int]
    spent_pico: int


def read_escalation(work: Workdir) -> Escalation | None:
    """None until the stage is done, and in a run without one."""
    tree = work.read_json(layout.ESCALATION)
    return None if tree is None else Escalation.model_validate(tree)


def escalate(context: Context) -> Escalation | None:
    """Write the escalated shard, once all pieces of the small shard are answered. Deterministic."""
    model = context.job.models.small
    if not model.escalates:
        return None
    earlier = read_escalation(context.work)
    if earlier is not None:
        return earlier
    answers, shard = context.work.stage("small"), shard_stage(context.work, "small")
    writer = ShardWriter(context.work, context.snapshot, "escalated", NO_COPIES)
    reasons: Counter[str] = Counter()
    spent = 0
    for unit in answers.receipts():
        rows = answers.read(unit, _COLUMNS).to_pylist()
        why = {row["position"]: reason for row in rows if (reason := _reason(model, row)) is not None}
        if why:
            reasons.update(why.values())
            spent += sum(prices.pico(row["cost"]) for row in rows if row["position"] in why and row["cost"] is not None)
            prompts = shard.read(unit, ["position", "tokens", "prompt"])
            positions = prompts["position"].to_numpy()
            which = np.flatnonzero(np.isin(positions, list(why)))
            writer.add(prompts, prompts["prompt"], which[np.argsort(positions[which])])
    writer.close()
    result = Escalation(rows=writer.rows, units=writer.units, reasons=dict(sorted(reasons.items())), spent_pico=spent)
    context.work.put_json(layout.ESCALATION, result.model_dump(mode="json"))
    if result.rows:
        kinds = ", ".join(f"{count:,} {reason}" for reason, count in result.reasons.items())
        context.engine.progress.note(
            "escalate", f"{result.rows:,} rows go on to the large model: {kinds}", rows=result.rows, **result.reasons
        )
    return result


def _reason(model: JobModel, row: Mapping[str, Any]) -> Reason | None:
    """Why the row goes on to the large model; None where the answer is good enough or a copy of another row's."""
    if row["copy_of"] is not None:
        return None
    if row["error_type"] == "invalid_response":
        return "invalid"
    if row["error_type"] is not None:
        return "refused" if row["error_type"] == "refused" else "failed"
    if model.on_failure is not None and row["finish_reason"] == "length":
        return "cut"
    if row["finish_reason"] == "tool_calls":
        return None
    if model.on_failure is not None and not row["response"].strip():
        return "empty"
    if model.escalate is not None and model.escalate.problem(row["response"]) is not None:
        return "invalid"
    return None
