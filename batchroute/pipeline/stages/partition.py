"""Partition: writes the rows into the shards of the two models, in pieces to generate.

A policy that decides before the small model has answered decides here, by all scores. If it decides after, the small
model gets all rows that it can read.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from batchroute.config.job import without_samples
from batchroute.fields import SIDES, Side
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context
from batchroute.pipeline.groups import groups_of
from batchroute.pipeline.shards.background import Background
from batchroute.pipeline.shards.copies import find_copies
from batchroute.pipeline.shards.writer import Laps, ShardWriter
from batchroute.pipeline.stages.decide import decide_on, outlook_of
from batchroute.pipeline.stages.drift import heed_drift
from batchroute.pipeline.stages.scores import Sample, stored
from batchroute.pipeline.stages.unsupported import unsupported_rows
from batchroute.pipeline.tonight.basis import Basis, Mask, spent_on_calibration, taken_rows, way_of
from batchroute.pipeline.tonight.draw import drawn_positions
from batchroute.policy.decision import Decided, Decision, members_of
from batchroute.storage.receipts import Receipt
from batchroute.storage.units import Span
from batchroute.storage.workdir import Workdir
from batchroute.words import plural


class Partition(BaseModel):
    """How the rows were assigned to the two models; its file is written when all shards are.

    Attributes:
        decided: empty if the policy decides after the small model has answered.
    """

    model_config = ConfigDict(frozen=True)

    decided: list[Decided] = []
    rows: dict[Side, int]
    copies: dict[Side, int]
    units: dict[Side, int]


def read_partition(work: Workdir) -> Partition | None:
    """None until the stage is done."""
    tree = work.read_json(layout.PARTITION)
    return None if tree is None else Partition.model_validate(tree)


def partition(context: Context) -> Partition:
    """Assign all rows. Deterministic: a second attempt makes the same pieces, and skips those that are written."""
    earlier = read_partition(context.work)
    if earlier is not None:
        return earlier
    decision = _decide(context)
    work, frozen, models = context.work, context.snapshot, context.job.models
    stage, chunks = work.stage(layout.SCORE), frozen.chunks()
    scored = stage.receipts()
    greedy = [side for side in SIDES if models.of(side).generation.greedy]
    taken = drawn_positions(work)
    copies = find_copies(stage, chunks, decision.small, greedy, taken if len(taken) else None)
    background, laps = Background(), Laps()
    shards = {side: ShardWriter(work, frozen, side, copies[side], background, laps) for side in SIDES}
    unsupported = sum(receipt.counts.get("unsupported", 0) for receipt in scored.values())
    if unsupported:
        rows_hold = f"{plural(unsupported, 'row')} with images or the like"
        context.engine.progress.note("partition", f"{rows_hold} to the large model, by input.unsupported")
    reader = context.table.reader(context.prompts.columns)

    def assign(chunk: Span, rows: pa.Table) -> Receipt:
        batches = reader.read(chunk.start, chunk.stop)
        prompts = pa.chunked_array([context.prompts.stored(batch) for batch in batches])
        small = decision.small[chunk.start : chunk.stop]
        usable = rows["error_type"].is_null().to_numpy()
        first, last = np.searchsorted(taken, [chunk.start, chunk.stop])
        usable[taken[first:last] - chunk.start] = False
        for side, mask in (("small", small & usable), ("large", ~small & usable)):
            shards[cast(Side, side)].add(rows, prompts, np.flatnonzero(mask))
        return scored[chunk.unit]

    with background:
        with context.engine.progress.stage("partition", len(chunks), []) as report:
            tables = stage.tables((chunk.unit for chunk in chunks), ["position", "tokens", "error_type"])
            for chunk, rows in zip(chunks, tables, strict=True):
                context.engine.check()
                report(assign(chunk, rows))
        for shard in shards.values():
            shard.close()
    result = Partition(
        decided=decision.decided,
        rows={side: shard.rows for side, shard in shards.items()},
        copies={side: len(shard.copies.copies) for side, shard in shards.items()},
        units={side: shard.units for side, shard in shards.items()},
    )
    context.work.put_json(layout.PARTITION, result.model_dump(mode="json"))
    return result


def _decide(context: Context) -> Decision:
    on_drift = heed_drift(context)
    if not context.job.policy.looks_after or on_drift == "large":
        return decide_on(context)
    scored = stored(context)
    way = way_of(context, int(scored.routable.sum()))
    if way.way == "before":
        # Then no answer is compared with samples.
        return decide_on(dataclasses.replace(context, job=without_samples(context.job)))
    asked = scored.routable & ~unsupported_rows(context) & ~taken_rows(context)
    if way.skip is not None:
        low = asked & (scored.scores < np.float32(way.skip))
        asked &= ~low | _for_shares(context, scored, asked) | _for_budgets(context, scored, asked, low)
    return Decision(asked, [])


def _for_shares(context: Context, scored: Sample, asked: Mask) -> Mask:
    """The rows of the highest scores that a policy's shares need: a share counts more than a cut."""
    policy, needed = context.job.policy, np.zeros_like(asked)
    groups = None if policy.by is None else groups_of(context.table, policy.by)
    for group, rule in policy.rules():
        if rule.small_share is not None:
            members = np.ones_like(asked) if groups is None or group is None else members_of(groups, policy, group)
            at = np.flatnonzero(members & scored.routable)
            scores = np.where(asked[at], scored.scores[at], np.nan)
            needed[at] = rule.cutoff(scores, len(at)).small(scores, np.arange(len(at)))
    return needed


def _for_budgets(context: Context, scored: Sample, asked: Mask, low: Mask) -> Mask:
    """The rows of each budget that would not pay for the large model's answers to those that skip: a budget counts more
    than a cut.

    Args:
        low: rows whose score is below the cut.
    """
    policy, needed = context.job.policy, np.zeros_like(asked)
    if all(rule.budget is None for _, rule in policy.rules()):
        return needed
    view = outlook_of(context, scored, Basis.before(context).whole)
    small, large = view.costs["small"], view.costs["large"]
    groups = None if policy.by is None else groups_of(context.table, policy.by)
    for group, rule in policy.rules():
        members = asked if groups is None or group is None else asked & members_of(groups, policy, group)
        if rule.budget is None:
            continue
        spent = scored.spent + spent_on_calibration(context) if group is None else 0
        if (
            small is None
            or large is None
            or not rule.pays_for(spent + int(small.picos[members & ~low].sum()) + large.at_most(members & low))
        ):
            needed |= members
    return needed
