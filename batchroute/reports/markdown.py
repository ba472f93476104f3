"""The report of a night as Markdown, for chat and e-mail: the sentence first, then tables that are short."""

from __future__ import annotations

from decimal import Decimal

from batchroute.costs.console import notes
from batchroute.reports import sentences, tables, templates, words
from batchroute.reports.headline import headline
from batchroute.reports.night import NightReport

_GROUPS, _FAILURES = 10, 10


def render(night: NightReport) -> str:
    """The whole text. The same report gives the same text, to the byte."""
    cost = night.cost
    groups, policies = tables.groups(cost), tables.policies(night)
    return templates.markdown(
        "report.md",
        night=night,
        finished=words.moment(night.finished),
        headline=headline(night),
        routed=any(usage.rows for usage in cost.models.values()),
        notices=sentences.notices(night),
        tiles=sentences.tiles(night),
        policy=sentences.policy(night),
        models=tables.models(cost),
        notes=notes(cost),
        decimals=words.decimals_for(sentences.all_costs(night)),
        group_heading=tables.group_heading(cost),
        groups=groups[:_GROUPS],
        more_groups=max(0, len(groups) - _GROUPS),
        group_decimals=words.decimals_for([group.cost for group in groups[:_GROUPS]]),
        policies=policies,
        policy_decimals=words.decimals_for([None if row.cost is None else Decimal(str(row.cost)) for row in policies]),
        audit=sentences.audit(night) if night.audit else "",
        drift=sentences.drift(night) if night.drift else "",
        failures=night.failures[:_FAILURES],
        assumptions=sentences.assumptions(night),
    )
