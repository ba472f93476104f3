"""The report of a night as a web page: one file that needs no network and no script, by day, by night and on paper."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from batchroute.costs.report import ESCALATED
from batchroute.reports import sentences, tables, words
from batchroute.reports.headline import audited, expected
from batchroute.reports.night import NightReport
from batchroute.reports.page import plots, templates
from batchroute.reports.page.shown import shown

_FAILURES = 50


def render(night: NightReport) -> str:
    """The whole page. The same report gives the same page, to the byte."""
    groups = tables.listed(tables.groups(night.cost))
    return templates.html(
        "page/report.html",
        **shown(night),
        flow=_flow(night),
        groups=groups,
        groups_lead=sentences.groups(night, len(groups.first), len(groups)),
        group_decimals=words.decimals_for([group.cost for group in groups.first]),
        choices=tables.listed(tables.choices(night)),
        curves=(curves := _curves(night)),
        curve_lead=sentences.curve(night) if curves else "",
        curve_missing=sentences.curve_missing(night),
        histogram=_histogram(night),
        score_lines=sentences.scores(night),
        drops=_drops(night),
        audit_lead=sentences.audit(night) if night.audit else "",
        audit_facts=sentences.audit_facts(night) if night.audit else [],
        drift_lead=sentences.drift(night) if night.drift else "",
        stages=night.stages,
        longest=max((stage.seconds + stage.load_seconds for stage in night.stages), default=0) or 1,
        failures=night.failures[:_FAILURES],
        failures_lead=sentences.failures(night),
    )


def _flow(night: NightReport) -> list[dict[str, Any]]:
    """Where the rows went, as parts of one bar; none of an empty input."""
    rows = night.cost.rows
    parts = [
        ("small model", "is-small", rows["small"]),
        (f"{ESCALATED}, did not manage", "is-escalated", rows.get("escalated", 0)),
        ("large model", "is-large", rows["large"]),
        ("no usable prompt", "is-none", rows.get("unrouted", 0)),
    ]
    return [
        {"name": name, "css": css, "rows": count, "share": words.of(count, rows["total"])}
        for name, css, count in parts
        if count
    ]


def _curves(night: NightReport) -> dict[str, tuple[Markup, str, str]]:
    """Pictures of the cost-quality curve, as far as it is known, with their titles."""
    curve, share, total = night.curve, night.cost.cost_advantage, night.cost.total_cost
    found = {}
    if curve is not None and curve.small_share and curve.drop is not None:
        picture = plots.drop_curve(curve, share, expected(night), audited(night))
        point = "the dot: tonight, " + ("as audited" if audited(night) else "as expected")
        found["drop"] = (Markup(picture), "Quality drop", point)
    if curve is not None and curve.small_share and curve.cost is not None:
        picture = plots.cost_curve(curve, share, None if total is None else float(total))
        found["cost"] = (Markup(picture), "Cost", "the dot: tonight")
    return found


def _histogram(night: NightReport) -> Markup | None:
    scores = night.scores
    if not any(scores.small) and not any(scores.large):
        return None
    return Markup(plots.histogram(scores, tables.threshold(night)))


def _drops(night: NightReport) -> Markup | None:
    """What was expected and what the audit found."""
    rows = [(name, found) for name, found in (("expected", expected(night)), ("audited", audited(night))) if found]
    return Markup(plots.drops(rows)) if audited(night) else None
