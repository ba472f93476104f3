"""What the page and the text show alike: the values of both templates."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from batchroute.reports import sentences, tables, words
from batchroute.reports.console import notes
from batchroute.reports.headline import headline
from batchroute.reports.night import NightReport


def shown(night: NightReport) -> dict[str, Any]:
    """By the names that the templates have for them."""
    cost, policies = night.cost, tables.policies(night)
    return {
        "night": night,
        "finished": words.moment(night.finished),
        "headline": headline(night),
        "routed": any(usage.rows for usage in cost.models.values()),
        "notices": sentences.notices(night),
        "tiles": sentences.tiles(night),
        "policy": sentences.policy(night),
        "models": tables.models(cost),
        "notes": notes(cost),
        "decimals": words.decimals_for(sentences.all_costs(night)),
        "group_heading": tables.group_heading(cost),
        "policies": policies,
        "policy_decimals": words.decimals_for(
            [None if row.cost is None else Decimal(str(row.cost)) for row in policies]
        ),
        "assumptions": sentences.assumptions(night),
    }
