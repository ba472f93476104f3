"""`batchroute plan`: what a run would do and cost, from stored scores or a scored sample; generates nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from batchroute.config.job import Job, without_samples
from batchroute.engines.local import LocalEngine
from batchroute.fields import SIDES
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context, Snapshot
from batchroute.pipeline.expectations import assumptions
from batchroute.pipeline.foresight import foresee
from batchroute.pipeline.groups import groups_of
from batchroute.pipeline.identity import identify, known_calibration
from batchroute.pipeline.stages import snapshot
from batchroute.pipeline.stages.decide import check_budget, outlook_of, policy_words
from batchroute.pipeline.stages.fetch import fetch
from batchroute.pipeline.stages.partition import read_partition
from batchroute.pipeline.stages.scores import draw, stored
from batchroute.pipeline.stored_confidence import check_limits
from batchroute.policy.decision import Decided, decide
from batchroute.policy.forecast import Forecast
from batchroute.policy.outlook import Outlook
from batchroute.progress import Progress
from batchroute.reports.console import policies
from batchroute.storage.objects import folder_at
from batchroute.storage.workdir import Workdir
from batchroute.words import share

SAMPLE_ROWS = 1_000
_EDGES = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_BAR = 30


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        done: lines that say what an earlier run has done.
        scored: number of rows that the figures are based on: all rows, or a sample.
        stored: whether a run scored them before.
        tokens: shape [usable rows], the router's token count of each usable prompt, or without a router an estimate.
        bad: number of rows without a usable prompt.
    """

    snapshot: Snapshot
    done: list[str]
    scored: int
    stored: bool
    tokens: NDArray[np.int32]
    bad: int
    decided: list[Decided]
    expected: Forecast
    alternatives: list[Forecast]
    assumptions: list[str]


def make_plan(job: Job, progress: Progress, sample: int = SAMPLE_ROWS) -> Plan:
    """Plan a run, from stored scores if a run has scored all rows. Otherwise score a sample, drawn evenly over the
    table, for about 20 seconds at most. Rows of a query or a lake are fetched and kept: a later run uses them.

    Args:
        sample: the most rows to score.

    Raises:
        InputError: the job or its input is wrong, or the budget is less than the cheapest way to answer all rows.
    """
    output = folder_at(job.output.uri, job.output.storage_options, job.output.single_writer)
    identity = identify(job)
    work = Workdir(output, identity.run_id)
    committed = snapshot.committed(output, identity)
    snapshot.refuse_others(output, identity)
    fetched = None if job.input.in_place else fetch(job, work, progress)
    frozen, table = snapshot.inspect(job, identity, fetched)
    check_limits(job)
    check_budget(job, frozen)
    begun = work.read_json(layout.RUN)
    frozen = frozen if begun is None else Snapshot.model_validate(begun)
    context = Context(job, frozen, table, work, LocalEngine(progress))
    done = _done(context) if committed is None else [f"committed at {committed.committed_at}: a run has nothing to do"]
    is_scored = len(work.stage(layout.SCORE).receipts()) == len(frozen.chunks())
    scored = stored(context) if is_scored else draw(context, sample)
    assumed: list[str] = []
    view = outlook_of(context, scored, known_calibration(job))
    other: Outlook | None = None
    if job.policy.looks_after:
        # Deciding before needs no samples.
        before = dataclasses.replace(context, job=without_samples(job))
        other = None if job.router is None else outlook_of(before, scored, known_calibration(job))
        view, assumed = foresee(context, scored)
    groups = None if job.policy.by is None else groups_of(table, job.policy.by, scored.stretches)
    part = len(view.scores) / frozen.rows if frozen.rows else 1.0
    decision = decide(job.policy, view.rows(groups), view.calibration, view.spent, part)
    words = policy_words(decision)
    alternatives = view.alternatives()
    if other is not None and _is_for_scores(job, other):
        to_small = decide(job.policy, other.rows(groups), other.calibration, other.spent, part).small
        alternatives = [other.forecast(to_small, f"{words}, decided before"), *alternatives]
    return Plan(
        snapshot=frozen,
        done=done,
        scored=len(view.scores),
        stored=is_scored,
        tokens=scored.tokens[scored.routable],
        bad=int((~view.routable).sum()),
        decided=decision.decided,
        expected=view.forecast(decision.small, f"{words}, decided after" if view.after else words),
        alternatives=alternatives,
        assumptions=[*assumed, *assumptions(job, view.calibration)],
    )


def _is_for_scores(job: Job, view: Outlook) -> bool:
    """Whether the policy's rules can be applied to scores: a threshold is one on the confidence."""
    rules = [rule for _, rule in job.policy.rules()]
    limited = any(rule.max_quality_drop is not None for rule in rules)
    return all(rule.threshold is None for rule in rules) and (view.calibration is not None or not limited)


def _done(context: Context) -> list[str]:
    work, frozen = context.work, context.snapshot
    scored = work.stage(layout.SCORE).receipts()
    if not scored:
        return []
    lines = [f"{len(scored):,} of {len(frozen.chunks()):,} chunks are scored"]
    partitioned = read_partition(work)
    if partitioned is not None:
        lines += [
            f"{len(work.stage(side).receipts()):,} of {units:,} units of the {side} model are answered"
            for side, units in ((side, partitioned.units[side]) for side in SIDES)
        ]
    return lines


def show(plan: Plan, job: Job) -> None:
    """Print a plan."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    frozen = plan.snapshot

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    of = "all rows" if plan.scored == frozen.rows else f"a sample of {plan.scored:,} rows"
    of += ", by their stored scores" if plan.stored else ""
    say(f"{job.name}: {frozen.rows:,} rows in {len(frozen.files):,} files; figures are of {of}")
    say(
        f"units: {len(frozen.chunks()):,} to score, pieces of {frozen.unit_rows:,} rows to generate, "
        f"{len(frozen.parts()):,} files to write"
    )
    for line in plan.done or ["nothing is done yet"]:
        say(line)
    if plan.bad:
        say(f"{plan.bad:,} of the {plan.scored:,} rows have no usable prompt")
    counted = "estimated by its length" if job.router is None else "by the router's count"
    console.print(_tokens(plan.tokens, counted))
    if len(plan.decided) > 1:
        for decided in plan.decided:
            say(f"{decided.group}: {decided.policy}: {_part(decided)} of its rows to small")
    console.print(policies([plan.expected, *plan.alternatives]))
    for line in plan.assumptions:
        say(line)


def _part(decided: Decided) -> str:
    return share(decided.small / decided.rows if decided.rows else None)


def _tokens(tokens: NDArray[np.int32], counted: str) -> Table:
    table = Table(title=f"tokens of a prompt, {counted}", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("tokens", justify="right")
    table.add_column("rows", justify="right")
    table.add_column("")
    counts = np.histogram(tokens, [*_EDGES, np.iinfo(np.int32).max])[0]
    last = int(np.flatnonzero(counts)[-1]) if counts.any() else -1
    for number, count in enumerate(counts[: last + 1].tolist()):
        table.add_row(_range(number), f"{count:,}", "█" * round(_BAR * count / max(1, counts.max())))
    return table


def _range(number: int) -> str:
    if number + 1 == len(_EDGES):
        return f"{_EDGES[number]:,} or more"
    return f"{_EDGES[number]:,} to {_EDGES[number + 1] - 1:,}"
