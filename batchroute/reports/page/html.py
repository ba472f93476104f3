"""The report of a night as a web page: one file without scripts or network access, light, dark or on paper."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from batchroute import words
from batchroute.costs.report import ESCALATED
from batchroute.reports import sentences, tables
from batchroute.reports.headline import audited, expected
from batchroute.reports.night import NightReport
from batchroute.reports.page import plots, templates
from batchroute.reports.page.shown import shown

_FAILURES = 50


def render(night: NightReport) -> str:
    """The whole page. The same report always gives the same bytes."""
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
    """Where the rows went, as parts of one bar."""
    rows = night.cost.rows
    parts = [
        ("small model", "is-small", rows["small"]),
        (f"{ESCALATED}, escalated", "is-escalated", rows.get("escalated", 0)),
        (f"{ESCALATED}, deferred", "is-deferred", rows.get("deferred", 0)),
        (f"{ESCALATED}, calibration", "is-drawn", rows.get("calibration_large", 0)),
        ("large model", "is-large", rows["large"]),
        ("no usable prompt", "is-none", rows.get("unrouted", 0)),
    ]
    return [
        {"name": name, "css": css, "rows": count, "share": words.of(count, rows["total"])}
        for name, css, count in parts
        if count
    ]


def _curves(night: NightReport) -> dict[str, tuple[Markup, str, str]]:
    """The known pictures of the cost-quality curve, each with a title and a line below it."""
    curve, share, total = night.curve, night.cost.cost_advantage, night.cost.total_cost
    pictures = {}
    if curve is not None and curve.small_share and curve.drop is not None:
        picture = plots.drop_curve(curve, share, expected(night), audited(night))
        point = "the dot: tonight, " + ("audited" if audited(night) else "expected")
        pictures["drop"] = (Markup(picture), "Quality drop", point)
    if curve is not None and curve.small_share and curve.cost is not None:
        picture = plots.cost_curve(curve, share, None if total is None else float(total))
        pictures["cost"] = (Markup(picture), "Cost", "the dot: tonight")
    return pictures


def _histogram(night: NightReport) -> Markup | None:
    scores = night.scores
    if not any(scores.small) and not any(scores.large):
        return None
    return Markup(plots.histogram(scores, tables.threshold(night)))


def _drops(night: NightReport) -> Markup | None:
    """The expected and the audited drop, one above the other; None without an audit."""
    rows = [(name, drop) for name, drop in (("expected", expected(night)), ("audited", audited(night))) if drop]
    return Markup(plots.drops(rows)) if audited(night) else None
