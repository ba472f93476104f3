"""The report of a night as Markdown, for chat and e-mail: the headline, then short tables."""

from __future__ import annotations

from batchroute import words
from batchroute.reports import sentences, tables
from batchroute.reports.night import NightReport
from batchroute.reports.page import templates
from batchroute.reports.page.shown import shown

_GROUPS, _FAILURES = 10, 10


def render(night: NightReport) -> str:
    """The whole text. The same report always gives the same bytes."""
    groups = tables.groups(night.cost)
    return templates.markdown(
        "page/report.md",
        **shown(night),
        groups=groups[:_GROUPS],
        more_groups=max(0, len(groups) - _GROUPS),
        group_decimals=words.decimals_for([group.cost for group in groups[:_GROUPS]]),
        audit=sentences.audit(night) if night.audit else "",
        drift=sentences.drift(night) if night.drift else "",
        spread=sentences.spread(night) if night.spread else "",
        failures=night.failures[:_FAILURES],
    )
