"""The trend over many nights, from their manifests: cost, share of rows on the small model, quality drop and drift."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, ValidationError

from batchroute.errors import InputError
from batchroute.policy.forecast import Range
from batchroute.reports import words
from batchroute.reports.page import templates
from batchroute.reports.trend import plots as trend_plots
from batchroute.storage.manifest import Manifest

HTML, MARKDOWN = "trend.html", "trend.md"
"""The files, and the templates that they are made from."""
LATEST = 400
"""As many nights of a job are shown."""


class DriftedFeature(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    psi: float
    ks: float | None = None
    p_value: float | None = None
    drifted: bool


class NightDrift(BaseModel):
    model_config = ConfigDict(frozen=True)

    drifted: bool
    features: list[DriftedFeature]


class Quality(BaseModel):
    """`quality` of a manifest; nothing is known of a night whose manifest has none. Drops in percent."""

    model_config = ConfigDict(frozen=True)

    cost_advantage: float | None = None
    expected_drop: Range | None = None
    audited_drop: Range | None = None
    drift: NightDrift | None = None


class Costs(BaseModel):
    """`cost` of a manifest, as far as a trend needs it."""

    model_config = ConfigDict(frozen=True)

    class Baseline(BaseModel):
        cost: Decimal | None = None

    class Savings(BaseModel):
        usd: Decimal
        share: Decimal | None = None

    total_cost: Decimal | None = None
    baseline: Baseline = Baseline()
    savings: Savings | None = None


@dataclass(frozen=True)
class Night:
    """One committed output.

    Attributes:
        at: when it was committed, UTC.
        small_share: of the rows that were routed; None where there were none.
    """

    job: str
    run_id: str
    at: datetime.datetime
    rows: int
    failed: int
    small_share: float | None
    costs: Costs
    quality: Quality

    @property
    def drifted(self) -> str:
        """Drift in a word or two; empty where it was not looked for."""
        if self.quality.drift is None:
            return ""
        names = [feature.name for feature in self.quality.drift.features if feature.drifted]
        return ", ".join(names) or ("yes" if self.quality.drift.drifted else "none")


@dataclass(frozen=True)
class Series:
    """The nights of one job, in their order; `earlier` ones are left out."""

    job: str
    nights: list[Night]
    earlier: int


def night_of(manifest: Manifest) -> Night:
    """Raises:
    InputError: the manifest's figures are damaged.
    """
    counts = manifest.counts
    small, large = counts.get("small", 0) + counts.get("escalated", 0), counts.get("large", 0)
    at = words.utc(manifest.committed_at)
    try:
        costs = Costs.model_validate(manifest.cost)
        quality = Quality.model_validate(manifest.quality)
    except ValidationError as error:
        raise InputError(f"the manifest of run {manifest.run_id} is damaged: its figures cannot be read") from error
    if at is None:
        raise InputError(f"the manifest of run {manifest.run_id} is damaged: committed_at is no time")
    share = small / (small + large) if small + large else None
    return Night(
        job=manifest.name,
        run_id=manifest.run_id,
        at=at,
        rows=manifest.rows,
        failed=counts.get("failed", 0),
        small_share=share if quality.cost_advantage is None else quality.cost_advantage,
        costs=costs,
        quality=quality,
    )


def series(manifests: Iterable[Manifest]) -> list[Series]:
    """By job, each in the order of its commits; an output that was given twice counts once."""
    nights = {(night.job, night.at, night.run_id): night for night in map(night_of, manifests)}
    ordered = [nights[key] for key in sorted(nights)]
    found = []
    for job, group in itertools.groupby(ordered, key=lambda night: night.job):
        of_job = list(group)
        found.append(Series(job, of_job[-LATEST:], max(0, len(of_job) - LATEST)))
    return found


def headline(shown: Series) -> str:
    """One sentence on all nights that are shown."""
    nights = shown.nights
    priced = [night for night in nights if night.costs.total_cost is not None]
    compared = [night for night in priced if night.costs.baseline.cost is not None]
    begin = words.plural(len(nights), "night")
    if not priced:
        return f"{begin} of {words.plural(sum(night.rows for night in nights), 'row')}; what they cost is not known."
    total = sum((night.costs.total_cost or Decimal(0) for night in priced), Decimal(0))
    known = "" if len(priced) == len(nights) else f", as far as is known ({len(priced):,} of them)"
    text = f"{begin} cost {words.usd(total)}{known}"
    if not compared:
        return f"{text}; what they saved is not known."
    alone = sum((night.costs.baseline.cost or Decimal(0) for night in compared), Decimal(0))
    saved = alone - sum((night.costs.total_cost or Decimal(0) for night in compared), Decimal(0))
    share = f" ({words.share(abs(saved) / alone)})" if alone else ""
    verb = f"saved {words.usd(saved)}{share} against" if saved >= 0 else f"were {words.usd(-saved)}{share} dearer than"
    return f"{text} and {verb} the large model alone."


def table(shown: Series) -> list[dict[str, Any]]:
    """A row a night, in words."""
    costs = [night.costs for night in shown.nights]
    decimals = words.decimals_for([*(one.total_cost for one in costs), *(one.baseline.cost for one in costs)])
    return [
        {
            "at": f"{night.at:%Y-%m-%d} ({night.at:%H:%M} UTC)",
            "rows": f"{night.rows:,}",
            "cost": words.usd(night.costs.total_cost, decimals),
            "baseline": words.usd(night.costs.baseline.cost, decimals),
            "saved": _saved(night.costs.savings),
            "small_share": words.share(night.small_share),
            "expected": words.with_interval(night.quality.expected_drop),
            "audited": words.with_interval(night.quality.audited_drop),
            "drift": night.drifted or words.NOT_KNOWN,
            "drifted": night.quality.drift is not None and night.quality.drift.drifted,
            "failed": f"{night.failed:,}",
        }
        for night in shown.nights
    ]


def _saved(savings: Costs.Savings | None) -> str:
    return words.NOT_KNOWN if savings is None or savings.share is None else templates.signed_share(savings.share)


def render(jobs: list[Series]) -> str:
    """The whole page; the same nights give the same page, to the byte."""
    return templates.html(f"trend/{HTML}", jobs=[_view(shown, place) for place, shown in enumerate(jobs)])


def markdown(jobs: list[Series]) -> str:
    return templates.markdown(f"trend/{MARKDOWN}", jobs=[_view(shown, None) for shown in jobs])


def _view(shown: Series, place: int | None) -> dict[str, Any]:
    first, last = shown.nights[0].at, shown.nights[-1].at
    return {
        "job": shown.job,
        "headline": headline(shown),
        "span": f"{first:%Y-%m-%d} to {last:%Y-%m-%d}",
        "earlier": shown.earlier,
        "rows": table(shown),
        "pictures": [] if place is None else _pictures(shown.nights, place),
    }


def _pictures(nights: list[Night], place: int) -> list[tuple[str, list[tuple[str, str]], Markup]]:
    """Title, key and picture of each figure that is known of at least one night."""
    times = [night.at for night in nights]
    costs = [night.costs for night in nights]
    spent, alone = [one.total_cost for one in costs], [one.baseline.cost for one in costs]
    shares = [night.small_share for night in nights]
    expected = [night.quality.expected_drop for night in nights]
    audited = [night.quality.audited_drop for night in nights]
    psi = {
        (at, feature.name): (feature.psi, feature.drifted)
        for at, night in zip(times, nights, strict=True)
        if night.quality.drift is not None
        for feature in night.quality.drift.features
    }
    found = []
    if any(amount is not None for amount in spent):
        found.append(("Cost", [("ink", "routed"), ("muted", "large model alone, an estimate")],
                      Markup(trend_plots.cost(times, spent, alone, f"cost{place}"))))  # fmt: skip
    if any(share is not None for share in shares):
        found.append(
            (
                "Rows on the small model",
                [("small", "of those that were routed")],
                Markup(trend_plots.share(times, shares, f"share{place}")),
            )
        )
    if any([*expected, *audited]):
        found.append(("Quality drop", [("quality", "expected"), ("ink", "audited, with its 95 % interval")],
                      Markup(trend_plots.drop(times, expected, audited, f"drop{place}"))))  # fmt: skip
    if psi:
        found.append(("Drift", [("notice", "drifted"), ("muted", "not; the larger, the further away (PSI)")],
                      Markup(trend_plots.drift(times, psi, f"drift{place}"))))  # fmt: skip
    return found
