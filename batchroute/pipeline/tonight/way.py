"""The way a run decides: by the prompt's score before any answer, by the small model's answer, or by both.

With a router both ways are possible. Rows that both models answered show which is best at equal total cost.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from batchroute.confidence.calibration import AnsweredRows
from batchroute.confidence.choice import Choice, choose_at, choose_within
from batchroute.confidence.plans import WAYS, Plan
from batchroute.confidence.plans import Way as Name
from batchroute.confidence.pricing import by_price
from batchroute.confidence.rows import PricedRows
from batchroute.config.job import Job
from batchroute.costs.prices import Price
from batchroute.errors import InputError
from batchroute.fields import SIDES, Side
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context
from batchroute.policy.settings import DEFAULT, Policy, Rule
from batchroute.router.calibration.lengths import Lengths
from batchroute.storage.workdir import Workdir

_TRIFLE = 1e-12
"""A pico-dollar."""


class Way(BaseModel):
    """What was chosen.

    Attributes:
        skip: of `both`: rows with a lower score go to the large model without an answer of the small one.
        why: one sentence; None where there was nothing to choose.
    """

    model_config = ConfigDict(frozen=True)

    way: Name
    skip: float | None = None
    why: str | None = None

    @property
    def plan(self) -> Plan:
        return Plan(self.way, self.skip)


def read_way(work: Workdir) -> Way | None:
    """None until it is chosen, and in a run that decides before."""
    tree = work.read_json(layout.WAY)
    return None if tree is None else Way.model_validate(tree)


def put_way(context: Context, way: Way) -> None:
    if context.work.put_json(layout.WAY, way.model_dump(mode="json")) and way.why is not None:
        context.engine.progress.note("decide", way.why)


def choose(job: Job, rows: PricedRows | None, whole: int) -> Way:
    """The way of a policy that may look at answers.

    Args:
        rows: rows that both models answered, with their costs in USD; None where these are not known.
        whole: number of rows of the run that go to a model.
    """
    policy = job.policy
    if job.router is None:
        why = "after: without a router no score decides before" if policy.decide == "auto" else None
        return Way(way="after", why=why)
    rule = _rule(job)
    if rule.threshold is not None:
        return Way(way="after", why="after: a threshold is one on the confidence" if policy.decide == "auto" else None)
    if rows is None or rows.score is None:
        begin = "after" if policy.decide == "auto" else "no row skips the small model"
        return Way(way="after", why=f"{begin}: no calibration rows have a score and costs to compare both ways by")
    choice = _choice(rule, rows, whole, ways_of(policy))
    return Way(way=choice.plan.way, skip=choice.plan.skip, why=choice.why)


def ways_of(policy: Policy) -> Sequence[Name]:
    """The ways that a policy leaves open where there is a router."""
    if policy.decide == "auto":
        return WAYS
    return ("after", "both") if policy.looks_after else ("before",)


def _rule(job: Job) -> Rule:
    """The rule that chooses: all rows go one way, so in a policy by group it is the default's."""
    return dict(job.policy.rules())[None if job.policy.groups is None else DEFAULT]


def _choice(rule: Rule, rows: PricedRows, whole: int, ways: Sequence[Name]) -> Choice:
    if rule.max_quality_drop is not None:
        return choose_within(rows, float(100 * rule.max_quality_drop), rule.rule or "bounded", ways=ways)
    if rule.small_share is not None:
        return choose_at(rows, rows.cost_of_share(float(rule.small_share)), ways=ways)
    assert rule.budget is not None
    return choose_at(rows, min(1.0, float(rule.budget) / max(_TRIFLE, rows.all_large * whole)), ways=ways)


def priced(answered: AnsweredRows, prices: dict[Side, Price | None], lengths: dict[str, Lengths]) -> PricedRows | None:
    """The rows of a stored calibration at the prices of a job; None if a price, a time or tokens are missing."""
    known: dict[Side, Price] = {side: price for side, price in prices.items() if price is not None}
    seconds = {side: one.seconds_per_token for side, one in lengths.items() if one.seconds_per_token is not None}
    if len(known) < len(SIDES):
        return None
    try:
        return by_price(answered, known, seconds)
    except InputError:
        return None
