"""The values that the page and the Markdown share."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from batchroute import words
from batchroute.reports import sentences, tables
from batchroute.reports.headline import headline
from batchroute.reports.night import NightReport
from batchroute.reports.notes import notes


def shown(night: NightReport) -> dict[str, Any]:
    """Values by their names in the templates."""
    cost, policies = night.cost, tables.policies(night)
    return {
        "night": night,
        "finished": words.moment(night.finished),
        "headline": headline(night),
        "routed": cost.routed,
        "notices": sentences.notices(night),
        "tiles": sentences.tiles(night),
        "policy": sentences.policy(night),
        "models": tables.models(cost),
        "notes": notes(cost),
        "decimals": tables.cost_decimals(cost),
        "group_heading": tables.group_heading(cost),
        "policies": policies,
        "policy_decimals": words.decimals_for(
            [None if row.cost is None else Decimal(str(row.cost)) for row in policies]
        ),
        "assumptions": sentences.assumptions(night),
    }
