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

from batchroute import words
from batchroute.errors import InputError
from batchroute.policy.forecast import Range
from batchroute.reports import drops
from batchroute.reports.page import templates
from batchroute.reports.trend import plots
from batchroute.storage.manifest import Manifest

HTML, MARKDOWN = "trend.html", "trend.md"
"""The names of the files and of their templates."""
LATEST = 400
"""The number of nights of a job that a trend shows."""


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
    """`quality` of a manifest; all None in a manifest without it. Drops in percent."""

    model_config = ConfigDict(frozen=True)

    cost_advantage: float | None = None
    expected_drop: Range | None = None
    audited_drop: Range | None = None
    drift: NightDrift | None = None


class Costs(BaseModel):
    """The part of `cost` of a manifest that a trend shows."""

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
        small_share: of the routed rows; None without routed rows.
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
        """The features that drifted; `none`, or empty where drift was not measured."""
        if self.quality.drift is None:
            return ""
        names = [feature.name for feature in self.quality.drift.features if feature.drifted]
        return ", ".join(names) or ("yes" if self.quality.drift.drifted else "none")


@dataclass(frozen=True)
class Series:
    """The nights of one job in order; `earlier` counts those left out."""

    job: str
    nights: list[Night]
    earlier: int


def night_of(manifest: Manifest) -> Night:
    """The night of a manifest.

    Raises:
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
        raise InputError(f"the manifest of run {manifest.run_id} is damaged: committed_at is not a time")
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
    """Nights by job, in the order of their commits. An output that is given twice counts once."""
    nights = {(night.job, night.at, night.run_id): night for night in map(night_of, manifests)}
    ordered = [nights[key] for key in sorted(nights)]
    by_job = [(job, list(group)) for job, group in itertools.groupby(ordered, key=lambda night: night.job)]
    return [Series(job, group[-LATEST:], max(0, len(group) - LATEST)) for job, group in by_job]


def headline(shown: Series) -> str:
    """One sentence about all nights of the series."""
    nights = shown.nights
    priced = [night for night in nights if night.costs.total_cost is not None]
    compared = [night for night in priced if night.costs.baseline.cost is not None]
    begin = words.plural(len(nights), "night")
    if not priced:
        return f"{begin} of {words.plural(sum(night.rows for night in nights), 'row')}; the cost is not known."
    total = sum((night.costs.total_cost or Decimal(0) for night in priced), Decimal(0))
    known = "" if len(priced) == len(nights) else f" (known for {len(priced):,} of them)"
    text = f"{begin} cost {words.money(total)}{known}"
    if not compared:
        return f"{text}; the savings are not known."
    alone = sum((night.costs.baseline.cost or Decimal(0) for night in compared), Decimal(0))
    saved = alone - sum((night.costs.total_cost or Decimal(0) for night in compared), Decimal(0))
    share = f" ({words.share(abs(saved) / alone)})" if alone else ""
    if saved < 0:
        return f"{text}, {words.money(-saved)}{share} more than the large model alone."
    return f"{text} and saved {words.money(saved)}{share} against the large model alone."


def table(shown: Series) -> list[dict[str, Any]]:
    """A row for each night, in words."""
    costs = [night.costs for night in shown.nights]
    decimals = words.decimals_for([*(one.total_cost for one in costs), *(one.baseline.cost for one in costs)])
    return [
        {
            "at": f"{night.at:%Y-%m-%d} ({night.at:%H:%M} UTC)",
            "rows": f"{night.rows:,}",
            "cost": words.money(night.costs.total_cost, decimals),
            "baseline": words.money(night.costs.baseline.cost, decimals),
            "saved": words.share(None if night.costs.savings is None else night.costs.savings.share),
            "small_share": words.share(night.small_share),
            "expected": drops.with_interval(night.quality.expected_drop),
            "audited": drops.with_interval(night.quality.audited_drop),
            "drift": night.drifted or words.NOT_KNOWN,
            "drifted": night.quality.drift is not None and night.quality.drift.drifted,
            "failed": f"{night.failed:,}",
        }
        for night in shown.nights
    ]


def render(jobs: list[Series]) -> str:
    """The whole page. The same nights always give the same bytes."""
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
    """Title, key and picture of each figure that at least one night has."""
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
    pictures: list[tuple[str, list[tuple[str, str]], str]] = []
    if any(amount is not None for amount in spent):
        keys = [("ink", "routed"), ("muted", "large model alone, an estimate")]
        pictures.append(("Cost", keys, plots.cost(times, spent, alone, f"cost{place}")))
    if any(share is not None for share in shares):
        keys = [("small", "share of the routed rows")]
        pictures.append(("Rows on the small model", keys, plots.share(times, shares, f"share{place}")))
    if any([*expected, *audited]):
        keys = [("quality", "expected"), ("ink", "audited, with its 95 % interval")]
        pictures.append(("Quality drop", keys, plots.drop(times, expected, audited, f"drop{place}")))
    if psi:
        keys = [("notice", "drifted"), ("muted", "not drifted; larger dots differ more (PSI)")]
        pictures.append(("Drift", keys, plots.drift(times, psi, f"drift{place}")))
    return [(title, keys, Markup(picture)) for title, keys, picture in pictures]
