"""The rows of tonight's calibration: drawn evenly over the whole batch, and written as a shard for each model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from batchroute import quality
from batchroute.errors import InputError
from batchroute.fields import LARGE
from batchroute.pipeline import layout
from batchroute.pipeline.audit.rows import Positions
from batchroute.pipeline.audit.sample import random_generator
from batchroute.pipeline.context import Context
from batchroute.pipeline.groups import groups_of
from batchroute.pipeline.shards.copies import NO_COPIES
from batchroute.pipeline.shards.writer import Laps, ShardWriter
from batchroute.pipeline.stages.scores import stored
from batchroute.pipeline.stages.unsupported import unsupported_rows
from batchroute.pipeline.tonight.drawn import SHARDS, Drawn, read_drawn
from batchroute.policy.decision import Groups, members_of
from batchroute.quality.measuring.responses import reference_text
from batchroute.storage.workdir import Workdir
from batchroute.tables.parquet import PickedTable
from batchroute.words import plural

LEAST_ROWS_OF_A_GROUP = 50
"""Rows of each group of a policy, or all that it has."""

FEWEST_ROWS = 12
"""With fewer measured prompts no bound is worth a name."""


def drawn_positions(work: Workdir) -> Positions:
    """The drawn rows, ascending; empty without a calibration."""
    drawn = read_drawn(work)
    return np.array([] if drawn is None else drawn.positions, np.int64)


def draw(context: Context) -> None:
    """Draw the rows and write their shards. Deterministic: a second attempt draws the same, and writes what is missing.

    Raises:
        InputError: fewer rows have a usable prompt than are to be drawn, or too few of the drawn ones a reference.
    """
    spec = context.job.policy.calibrate
    assert spec is not None
    drawn = read_drawn(context.work)
    if drawn is None:
        positions, of = _choose(context)
        _check_references(context, positions)
        drawn = Drawn(
            of=of,
            metric=quality.describe(spec.metric),
            reference=reference_of(context),
            positions=positions.tolist(),
        )
        context.work.put_json(layout.DRAWN, drawn.model_dump(mode="json"))
        compared = "likeness to the large model's" if drawn.by_likeness else "the two answers"
        context.engine.progress.note(
            "calibrate",
            f"{plural(len(positions), 'row')} of {of:,} go to both models first, to compare {compared} by "
            f"{drawn.metric}; they keep the large model's answer",
            rows=len(positions),
        )
    _write_shards(context, np.array(drawn.positions, np.int64))


def reference_of(context: Context) -> str | None:
    """The column of references, or `large`; `reference` where the input has it and the job says nothing."""
    spec = context.job.policy.calibrate
    assert spec is not None
    if spec.reference is not None:
        return spec.reference
    return "reference" if "reference" in context.table.schema.names else None


def _choose(context: Context) -> tuple[Positions, int]:
    """The drawn rows, ascending, and of how many."""
    job = context.job
    spec, policy = job.policy.calibrate, job.policy
    assert spec is not None
    scored = stored(context)
    eligible = scored.routable & ~unsupported_rows(context)
    if job.router is not None and not policy.looks_after:
        eligible &= ~np.isnan(scored.scores)
    rng = random_generator(spec.seed, context, "calibration")
    of = int(eligible.sum())
    if 0 < of < spec.rows:
        raise InputError(
            f"policy.calibrate.rows is {spec.rows:,}, but only {of:,} of {plural(len(eligible), 'row')} have a prompt "
            "that both models can answer: lower it, or leave calibrate out"
        )
    if policy.by is None:
        rows = np.flatnonzero(eligible)
        return np.sort(rng.choice(rows, min(spec.rows, of), replace=False)).astype(np.int64), of
    groups = groups_of(context.table, policy.by)
    drawn = [_of_group(groups, group, context, eligible, rng) for group, _ in policy.rules()]
    return np.sort(np.concatenate(drawn)).astype(np.int64), of


def _of_group(
    groups: Groups, group: str | None, context: Context, eligible: np.ndarray, rng: np.random.Generator
) -> Positions:
    """A group's part of the rows, in proportion to its size, but enough for a figure of its own."""
    spec = context.job.policy.calibrate
    assert spec is not None
    assert group is not None
    rows = np.flatnonzero(eligible & members_of(groups, context.job.policy, group))
    wanted = max(LEAST_ROWS_OF_A_GROUP, round(spec.rows * len(rows) / max(1, int(eligible.sum()))))
    chosen: Positions = rng.choice(rows, min(wanted, len(rows)), replace=False).astype(np.int64)
    return chosen


def _check_references(context: Context, positions: Positions) -> None:
    """Before both models are paid for answers that nothing can be compared with."""
    spec, column = context.job.policy.calibrate, reference_of(context)
    assert spec is not None
    if not len(positions) or column is None or spec.by_likeness or not spec.metric.record.needs_reference:
        return
    batches = PickedTable.of(context.table, positions).reader([column]).read(0, len(positions))
    texts = [reference_text(value) for batch in batches for value in batch.column(column)]
    known = sum(bool(text and text.strip()) for text in texts)
    if known < min(FEWEST_ROWS, len(positions)):
        raise InputError(
            f"policy.calibrate.reference: {known:,} of the {len(positions):,} drawn rows have a reference in the "
            f"column '{column}', and {FEWEST_ROWS} are needed: name another column, or take the large model's answer "
            f"by reference: {LARGE}"
        )


def _write_shards(context: Context, positions: Positions) -> None:
    """Chunks that hold none of the rows are not read."""
    frozen, stage = context.snapshot, context.work.stage(layout.SCORE)
    laps = Laps()
    writers = [ShardWriter(context.work, frozen, shard, NO_COPIES, laps=laps) for shard in SHARDS.values()]
    reader = context.table.reader(context.prompts.columns)
    for chunk in frozen.chunks():
        first, last = np.searchsorted(positions, [chunk.start, chunk.stop])
        if first < last:
            context.engine.check()
            rows = stage.read(chunk.unit, ["position", "tokens"])
            batches = reader.read(chunk.start, chunk.stop)
            prompts = pa.chunked_array([context.prompts.stored(batch) for batch in batches])
            for writer in writers:
                writer.add(rows, prompts, positions[first:last] - chunk.start)
    for writer in writers:
        writer.close()


def check_rows(wanted: int, rows: int) -> None:
    """Raises:
    InputError: the input has rows, but fewer than are to be drawn.
    """
    if 0 < rows < wanted:
        raise InputError(
            f"policy.calibrate.rows is {wanted:,}, but the input has {plural(rows, 'row')}: both models would answer "
            "all of them, which costs more than the large model alone; lower it, or leave calibrate out"
        )
