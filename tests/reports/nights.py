"""Sample reports of nights: full, tiny, empty, hostile."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal
from typing import Any

from batchroute.costs.report import Baseline, CostReport, Escalated, Savings
from batchroute.costs.usage import ModelUsage, RouterUsage
from batchroute.policy.forecast import Curve, Forecast, Range
from batchroute.quality.audit import Audit
from batchroute.reports.night import Choice, Failure, Histogram, NightReport, Spread, StageTime
from batchroute.router.drift.measure import Drift, Feature
from batchroute.storage.manifest import Manifest

RUN_ID = "20261124-9f3c21"
ESTIMATE = (
    "on the small shard's rows the large model would have read as many tokens per token of the prompt as on its own, "
    "and written as many a row as there: 181.4"
)
NO_PRICE = "not known: models.large.price is missing"
HOSTILE = "<script>alert('x')</script> | *bold* `code` \n# heading <!channel> &amp; [a](b) ${x} {{ 7*7 }} \u202e"


def usage(
    model: str, rows: int, read: int, written: int, cost: str | None, failed: int = 0, copies: int = 0, price: str = ""
) -> ModelUsage:
    return ModelUsage(
        model=model, rows=rows, generated=rows - copies, copies=copies, answered=rows - copies - failed, failed=failed,
        cut=0, input_tokens=read, output_tokens=written, router_tokens=read, busy_seconds=rows / 12, load_seconds=41.0,
        cost=None if cost is None else Decimal(cost), price=price,
    )  # fmt: skip


def cost(
    small: ModelUsage,
    large: ModelUsage,
    *,
    name: str = "nightly-support",
    router_cost: str | None = "0",
    baseline: str | None = None,
    escalated: Escalated | None = None,
    audited: ModelUsage | None = None,
    unrouted: int = 0,
    groups: list[dict[str, Any]] | None = None,
    failures: dict[str, int] | None = None,
) -> CostReport:
    """The report of these two models; the total and the savings follow from their costs."""
    went_on = 0 if escalated is None else escalated.rows
    costs = {
        "router": None if router_cost is None else Decimal(router_cost),
        "models.small": small.cost,
        "models.large": large.cost,
        "escalated": Decimal(0) if escalated is None else escalated.usage.cost,
        "audited": Decimal(0) if audited is None else audited.cost,
    }
    missing = [f"{key}.price" for key, amount in costs.items() if amount is None]
    total = None if missing else sum((amount for amount in costs.values() if amount is not None), Decimal(0))
    alone = None if baseline is None else Decimal(baseline)
    savings = None
    if total is not None and alone is not None:
        savings = Savings(usd=alone - total, share=round((alone - total) / alone, 6) if alone else None)
    routed, failed = small.rows + large.rows, sum((failures or {}).values())
    return CostReport(
        name=name,
        run_id=RUN_ID,
        rows={
            "total": routed + unrouted, "ok": routed + unrouted - failed, "failed": failed,
            "small": small.rows - went_on, "large": large.rows, "escalated": went_on, "unrouted": unrouted,
            "copies": small.copies + large.copies,
        },
        cost_advantage=small.rows / routed if routed else None,
        router=RouterUsage(
            model="models/router-2026-11", rows=routed, tokens=routed * 96, truncated=routed // 100, unscored=0,
            busy_seconds=routed / 240, load_seconds=3.1, cost=costs["router"],
        ),
        models={"small": small, "large": large},
        escalated=escalated,
        audited=audited,
        total_cost=total,
        baseline=Baseline(cost=alone, assumption=NO_PRICE if alone is None else ESTIMATE),
        savings=savings,
        missing_prices=missing,
        groups=groups or [],
        failures=failures or {},
    )  # fmt: skip


def night(found: CostReport, **fields: Any) -> NightReport:
    """A report with costs alone, and `fields`."""
    small, routed = found.models["small"].rows, sum(one.rows for one in found.models.values())
    defaults: dict[str, Any] = {
        "finished": "2026-11-24T02:14:09.120+00:00",
        "cost": found,
        "policy": {"threshold": 0.62},
        "by": None,
        "choices": [Choice(group=None, policy="threshold 0.62", rows=routed, small=small, threshold=0.62)],
        "expected": None,
        "alternatives": [],
        "curve": None,
        "scores": histogram(small, routed - small, 0.62),
        "audit": None,
        "drift": None,
        "on_drift": None,
        "stages": [],
        "failures": [Failure(error_type=kind, rows=rows, examples=[]) for kind, rows in found.failures.items()],
        "assumptions": [],
    }
    return NightReport(**{**defaults, **fields})


def histogram(small: int, large: int, threshold: float, bins: int = 40) -> Histogram:
    """Scores in two humps; the rows from the threshold on went to small."""
    edges = [place / bins for place in range(bins + 1)]
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    weights = [math.exp(-(((x - 0.78) / 0.13) ** 2)) + 0.45 * math.exp(-(((x - 0.35) / 0.16) ** 2)) for x in middles]
    is_small = [low >= threshold - 1e-9 for low in edges[:-1]]
    return Histogram(
        edges=edges,
        small=_dealt(small, [weight if here else 0.0 for weight, here in zip(weights, is_small, strict=True)]),
        large=_dealt(large, [0.0 if here else weight for weight, here in zip(weights, is_small, strict=True)]),
        unscored=0,
    )


def _dealt(rows: int, weights: list[float]) -> list[int]:
    whole = sum(weights) or 1.0
    return [round(rows * weight / whole) for weight in weights]


def curve(cheapest: float, dearest: float) -> Curve:
    shares = [place / 20 for place in range(21)]
    drop = [-0.4 * share + 7.2 * share**4 for share in shares]
    return Curve(
        small_share=shares,
        cost=[dearest + (cheapest - dearest) * share for share in shares],
        drop=drop,
        low=[value - 0.25 - 0.9 * share for value, share in zip(drop, shares, strict=True)],
        high=[value + 0.25 + 0.9 * share for value, share in zip(drop, shares, strict=True)],
    )


def forecast(policy: str, rows: int, share: float, amount: float, alone: float, drop: float) -> Forecast:
    return Forecast(
        policy=policy, rows=rows, small=round(rows * share), small_share=share,
        cost=Range(value=amount, low=amount * 0.97, high=amount * 1.03), savings=alone - amount,
        savings_share=1 - amount / alone, drop=Range(value=drop, low=drop - 0.5, high=drop + 0.6),
    )  # fmt: skip


def group(columns: dict[str, Any], route: str | None, rows: int, amount: str | None, failed: int = 0) -> dict[str, Any]:
    return {
        **columns, "route": route, "rows": rows, "failed": failed, "input_tokens": rows * 160,
        "output_tokens": rows * 190, "cost": None if amount is None else Decimal(amount),
    }  # fmt: skip


def stage(
    name: str, units: int, rows: int, seconds: float, load: float = 0, read: int = 0, written: int = 0
) -> StageTime:
    return StageTime(
        name=name, units=units, rows=rows, seconds=seconds, load_seconds=load, input_tokens=read, output_tokens=written
    )  # fmt: skip


def drift(drifted: bool) -> Drift:
    words = {
        "score": "Scores are lower than the calibration's: the mean is 0.58 against 0.66.",
        "length": "Prompts are 38 % longer than the calibration's (median 412 characters against 298).",
        "language": "No language is more frequent by more than 1.2 points.",
        "content": "Words and their pairs are those of the calibration.",
    }
    figures = {"score": (0.31, 0.142, 1e-9), "length": (0.27, 0.118, 4e-7), "language": (0.012, None, 0.31)}
    return Drift(
        rows=120_000,
        reference_rows=1_500,
        features=[
            Feature(
                name=name, psi=figures.get(name, (0.018, None, 0.22))[0], ks=figures.get(name, (0.018, None, 0.22))[1],
                p_value=figures.get(name, (0.018, None, 0.22))[2], drifted=drifted and name in ("score", "length"),
                words=words[name],
            )
            for name in ("score", "length", "language", "content")
        ],
    )  # fmt: skip


def audit(drop: float | None = 0.8, low: float | None = 0.2, high: float | None = 1.4) -> Audit:
    return Audit(
        metric="judge gpt-4.1", share=Decimal("0.01"), seed=0, rows=850, of=84_110, measured=830, large_rows=340,
        small_quality=7.91, large_quality=7.97, drop=drop, low=low, high=high, as_good=0.871, cost=Decimal("2.114"),
        failures={"refused": 12, "api_error": 8},
    )  # fmt: skip


TEAMS = ("support", "billing", "search", "legal", "onboarding", "research", None)


def full() -> NightReport:
    """120,000 rows with groups, escalated rows, an audit, drift and failures."""
    escalated = Escalated(
        rows=940, reasons={"invalid_response": 610, "refused": 214, "cut": 116}, small_cost=Decimal("0.31"),
        usage=usage("gpt-4.1", 940, 151_000, 176_000, "1.71"),
    )  # fmt: skip
    groups = []
    for place, team in enumerate(TEAMS):
        rows = 30_000 - 4_000 * place
        small = rows * (88 - 9 * place) // 100
        groups += [
            group({"team": team}, "large", rows - small, f"{(rows - small) * 0.0021:.6f}", failed=place),
            group({"team": team}, "small", small, f"{small * 0.00013:.6f}", failed=2 * place),
            group({"team": team}, "small→large", 130, "0.2415"),
        ]
    found = cost(
        usage("Qwen/Qwen3-4B-Instruct-2507", 85_050, 13_610_000, 16_160_000, "11.283190", 48, 3_100),
        usage("gpt-4.1", 34_700, 5_900_000, 6_294_000, "67.296", 14, 90),
        router_cost="1.6993",
        baseline="296.5034",
        escalated=escalated,
        audited=usage("gpt-4.1", 850, 136_000, 154_000, "2.114", 20),
        unrouted=250,
        groups=groups,
        failures={"api_error": 22, "null_prompt": 250, "out_of_memory": 6, "too_long": 34},
    )
    return night(
        found,
        policy={"max_quality_drop": "0.01", "rule": "bounded"},
        choices=[
            Choice(group=None, policy="max_quality_drop 1 % (bounded)", rows=119_750, small=85_050, threshold=0.55)
        ],
        scores=histogram(85_050, 34_700, 0.55).model_copy(update={"unscored": 12}),
        spread=Spread(rows=119_738, median=0.041, ninetieth=0.096, near=9_821, near_small=6_230),
        expected=forecast("max_quality_drop 1 % (bounded)", 119_750, 0.7102, 82.6, 296.5, 0.6),
        alternatives=[
            forecast("max_quality_drop 2 % (bounded)", 119_750, 0.81, 61.2, 296.5, 1.5),
            forecast("max_quality_drop 0.5 % (bounded)", 119_750, 0.58, 120.4, 296.5, 0.2),
            forecast("small_share 50 %", 119_750, 0.5, 146.0, 296.5, -0.1),
        ],
        curve=curve(14.2, 296.5),
        audit=audit(),
        drift=drift(True),
        on_drift="warn",
        stages=[
            stage("snapshot", 1, 120_000, 4.1),
            stage("score", 30, 120_000, 498.9, 3.1, 11_520_000, 0),
            stage("partition", 24, 119_750, 6.2),
            stage("small", 164, 81_950, 6_830.4, 41.0, 13_610_000, 16_160_000),
            stage("large", 68, 34_610, 2_891.0, 0, 5_900_000, 6_294_000),
            stage("escalated", 2, 940, 88.0, 0, 151_000, 176_000),
            stage("audit", 2, 850, 71.0, 0, 136_000, 154_000),
            stage("merge", 8, 120_000, 5.8),
        ],
        failures=[
            Failure(error_type="null_prompt", rows=250, examples=["req-000117", "req-000204", "req-001893"]),
            Failure(error_type="too_long", rows=34, examples=["req-018822", "req-020001"]),
            Failure(error_type="api_error", rows=22, examples=["req-100233", "req-100234", "req-100236"]),
            Failure(error_type="out_of_memory", rows=6, examples=["part-00003.parquet row 812"]),
        ],
        assumptions=[
            f"Savings compare with all rows on the large model, which is an estimate: {ESTIMATE}.",
            "The quality drop is relative to the mean quality of the large model's answers, by the audit's metric.",
            "The audit's interval is of 95 %, by a bootstrap over the audited rows within their strata.",
            "The calibration was made on 1,500 rows; where the night drifts from them, what was expected means less.",
        ],
    )  # fmt: skip


def demo() -> NightReport:
    """The tiny demo: prices of fractions of a cent, nothing calibrated."""
    found = cost(
        usage("embedded:smollm2-135m-instruct", 59, 1_911, 620, "0.000158"),
        usage("embedded:gemma-3-270m", 59, 7_269, 213, "0.003954"),
        name="demo",
        router_cost="0.000463",
        baseline="0.009083",
        unrouted=2,
        groups=[
            group({"team": "a"}, "small", 59, "0.000158"),
            group({"team": "b"}, "large", 59, "0.003954"),
            group({"team": "b"}, None, 2, "0", failed=2),
        ],
        failures={"null_prompt": 1, "empty_prompt": 1},
    )
    share = Choice(group=None, policy="small_share 50 %", rows=118, small=59, threshold=0.4986)
    return night(
        found,
        policy={"small_share": "0.5"},
        choices=[share],
        scores=histogram(59, 59, 0.5),
        curve=Curve(
            small_share=[i / 20 for i in range(21)], cost=[0.009083 - i * 0.00042 for i in range(21)],
            drop=None, low=None, high=None,
        ),
        stages=[
            stage("score", 1, 118, 0.4, 1.3, 1_377, 0),
            stage("small", 2, 59, 12.2, 0.3, 1_911, 620),
            stage("large", 2, 59, 24.7, 3.1, 7_269, 213),
        ],
    )  # fmt: skip


def calibrated() -> NightReport:
    """Calibrated, not audited."""
    found = cost(usage("s", 600, 60_000, 30_000, "0.5"), usage("l", 400, 40_000, 20_000, "9.5"), baseline="25")
    expected = forecast("max_quality_drop 1 %", 1_000, 0.6, 10.0, 25.0, 0.6)
    return night(found, expected=expected, curve=curve(1.0, 25.0), drift=drift(False))


def unknown() -> NightReport:
    """No prices, no calibration, no audit, no drift."""
    found = cost(usage("small", 700, 70_000, 7_000, None), usage("large", 300, 30_000, 3_000, None), router_cost=None)
    return night(found, choices=[], policy={"threshold": 0.5}, scores=histogram(700, 300, 0.5))


def empty() -> NightReport:
    found = cost(usage("small", 0, 0, 0, "0"), usage("large", 0, 0, 0, "0"), baseline="0")
    scores = Histogram(edges=[0.0, 0.5, 1.0], small=[0, 0], large=[0, 0], unscored=0)
    return night(found, choices=[], scores=scores)


def unusable() -> NightReport:
    """Three rows, none with a prompt."""
    nobody = usage("small", 0, 0, 0, "0"), usage("large", 0, 0, 0, "0")
    found = cost(*nobody, baseline="0", unrouted=3, failures={"null_prompt": 3})
    scores = Histogram(edges=[0.0, 0.5, 1.0], small=[0, 0], large=[0, 0], unscored=0)
    return night(found, choices=[], scores=scores)


def by_group(groups: int = 400) -> NightReport:
    """A policy by group, over hundreds of groups and a billion rows, with amounts of very different sizes."""
    entries, choices = [], []
    for place in range(groups):
        name, rows = f"tenant-{place:04d}", 1_000_000_000 // groups
        small = rows * (place % 100) // 100
        entries += [
            group({"tenant": name, "region": "eu" if place % 2 else "us"}, "small", small, f"{place * 1.75:.6f}"),
            group({"tenant": name, "region": "eu" if place % 2 else "us"}, "large", rows - small, "0.0000004"),
        ]
        choices.append(
            Choice(
                group=name, policy="budget $3,000" if place % 7 == 0 else f"small_share {place % 100} %", rows=rows,
                small=small, threshold=None if place % 7 == 0 else 0.2 + 0.6 * place / groups,
            )
        )  # fmt: skip
    small = sum(choice.small for choice in choices)
    found = cost(
        usage("small", small, 80_000_000_000, 4_000_000_000, "140000.25"),
        usage("large", 1_000_000_000 - small, 80_000_000_000, 4_000_000_000, "1094567.64"),
        router_cost="0.0000004",
        baseline="2469135.78",
        groups=entries,
    )
    scores = histogram(small, 1_000_000_000 - small, 0.5)
    return night(found, by="tenant", choices=choices, policy={"by": "tenant"}, scores=scores)


def hostile() -> NightReport:
    """Very long names with markup of all kinds."""
    long = HOSTILE + "x" * 200
    found = cost(
        usage(long, 6, 60, 6, "0.0000004", price=HOSTILE),
        usage(HOSTILE, 4, 40, 4, "0.0000021"),
        name=long,
        baseline="0.00001",
        groups=[
            group({HOSTILE: HOSTILE, "b|c": long}, "small", 6, "0.0000004"),
            group({HOSTILE: None, "b|c": 3}, "large", 4, "0.0000021", failed=2),
        ],
        failures={HOSTILE: 2},
    )
    return night(
        found,
        by=HOSTILE,
        policy={"by": HOSTILE},
        choices=[Choice(group=long, policy=HOSTILE, rows=10, small=6, threshold=0.5)],
        failures=[Failure(error_type=HOSTILE, rows=2, examples=[HOSTILE, long])],
        drift=drift(True).model_copy(
            update={
                "features": [
                    Feature(name="score", psi=0.5, ks=None, p_value=0.0, drifted=True, words=f"{HOSTILE} moved.")
                ]
            }
        ),
        on_drift=HOSTILE,
        audit=audit().model_copy(update={"metric": HOSTILE, "failures": {HOSTILE: 1}}),
        assumptions=[HOSTILE],
        expected=forecast(HOSTILE, 10, 0.6, 0.0000025, 0.00001, 0.4),
    )


def dearer() -> NightReport:
    """Routing cost more than it saved."""
    found = cost(usage("s", 1, 10, 1, "0.01"), usage("l", 9, 90, 9, "9.00"), router_cost="3", baseline="10.00")
    return night(found, audit=audit(-0.3, -0.9, 0.4))


ALL = {
    "full": full, "demo": demo, "calibrated": calibrated, "unknown": unknown, "empty": empty, "unusable": unusable,
    "by_group": by_group, "hostile": hostile, "dearer": dearer,
}  # fmt: skip


def manifest(day: int, *, name: str = "nightly-support", hour: int = 2, **changes: Any) -> Manifest:
    """The manifest of a night in November 2026, from the 1st on."""
    small = 78_000 + 900 * (day % 7)
    total, alone = Decimal("84.10") + Decimal(day % 5) * 3, Decimal("296.50") + Decimal(day % 4) * 4
    drifted = day in (19, 20)
    value, measured = 0.6 + 0.05 * (day % 3), 0.5 + 0.11 * (day % 5)
    values: dict[str, Any] = {
        "name": name,
        "run_id": f"run-{day:02d}",
        "fingerprint": "f",
        "settings": {},
        "input_files": [],
        "committed_at": f"2026-11-{day:02d}T{hour:02d}:14:00.000+00:00",
        "committed_by": "host:1:0",
        "rows": 120_000,
        "counts": {
            "total": 120_000, "ok": 119_700, "failed": 300, "small": small, "escalated": 900,
            "large": 119_750 - small - 900, "unrouted": 250, "copies": 0,
        },
        "cutoff": {},
        "files": [],
        "report": [],
        "cost": {
            "total_cost": str(total),
            "baseline": {"cost": str(alone), "assumption": ESTIMATE},
            "savings": {"usd": str(alone - total), "share": str(round((alone - total) / alone, 6))},
            "missing_prices": [],
        },
        "versions": {},
        "quality": {
            "cost_advantage": (small + 900) / 119_750,
            "expected_drop": {"value": value, "low": value - 0.5, "high": value + 0.6},
            "audited_drop": {"value": measured, "low": measured - 0.6, "high": measured + 0.7} if day % 3 else None,
            "drift": {
                "drifted": drifted,
                "features": [
                    {"name": feature, "psi": 0.31 if drifted and feature == "length" else 0.01 + 0.004 * (day % 6),
                     "ks": 0.02, "p_value": 0.3, "drifted": drifted and feature == "length"}
                    for feature in ("score", "length", "language", "content")
                ],
            },
        },
    }  # fmt: skip
    return Manifest(**values | changes)
