"""A night as metrics: gauges in OpenMetrics text, for node-exporter's textfile collector or a Pushgateway. Prometheus'
older text parser reads it, too.

Names follow Prometheus' conventions: base units, and the unit at the end. A figure that is not known has no sample; it
is never 0. The number of series depends on sides, stages and error types, not on rows; only `batchroute_run_info` has
the run's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from batchroute import words
from batchroute.policy.forecast import Range
from batchroute.reports import headline
from batchroute.reports.night import NightReport

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Value = float | int | Decimal | None
Sample = tuple[Mapping[str, str], Value]
_ROUTES = ("small", "large", "escalated", "unrouted")
_MORE_ROUTES = ("deferred", "calibration_large")


def render(night: NightReport) -> str:
    """The night's metrics as text, `# EOF` at its end."""
    from prometheus_client.openmetrics.exposition import generate_latest

    text: bytes = generate_latest(registry(night))  # type: ignore[no-untyped-call]
    return text.decode()


def registry(night: NightReport) -> CollectorRegistry:
    """The night's metrics alone, in a registry of prometheus_client."""
    from prometheus_client import CollectorRegistry

    gauges = _Gauges(CollectorRegistry(), night.name)
    _outcome(gauges, night)
    _costs(gauges, night)
    _work(gauges, night)
    _quality(gauges, night)
    _drift(gauges, night)
    return gauges.registry


class _Gauges:
    def __init__(self, registry: CollectorRegistry, job_name: str) -> None:
        self.registry, self._job_name = registry, job_name

    def one(self, name: str, about: str, value: Value) -> None:
        self.many(name, about, [({}, value)])

    def many(self, name: str, about: str, samples: list[Sample]) -> None:
        """A gauge with a sample for each known value; no gauge without one. All samples have the same labels."""
        from prometheus_client import Gauge

        known = [(labels, value) for labels, value in samples if value is not None]
        if not known:
            return
        # Not `job`: Prometheus sets that label itself, to the job that it scrapes.
        gauge = Gauge(f"batchroute_{name}", about, ["job_name", *known[0][0]], registry=self.registry)
        for labels, value in known:
            gauge.labels(job_name=self._job_name, **labels).set(float(value))


def _outcome(gauges: _Gauges, night: NightReport) -> None:
    rows, finished = night.cost.rows, words.utc(night.finished)
    gauges.many("run_info", "The last run that was committed.", [({"run_id": night.run_id}, 1)])
    gauges.one(
        "last_success_timestamp_seconds",
        "When the last run that was committed finished, Unix time.",
        None if finished is None else finished.timestamp(),
    )
    gauges.many("rows", "Rows by status.", [({"status": status}, rows.get(status, 0)) for status in ("ok", "failed")])
    gauges.many(
        "routed_rows",
        "Rows by route; escalated ones went from the small model to the large one.",
        [({"route": route}, rows.get(route, 0)) for route in (*_ROUTES, *(r for r in _MORE_ROUTES if r in rows))],
    )
    gauges.one("copied_rows", "Rows that share the answer of an identical prompt.", rows.get("copies"))
    gauges.many(
        "failed_rows",
        "Rows that failed, by error type.",
        [({"error_type": kind}, count) for kind, count in night.cost.failures.items()],
    )
    gauges.one(
        "cost_advantage_ratio", "Share of the routed rows that were sent to the small model.", night.cost.cost_advantage
    )


def _costs(gauges: _Gauges, night: NightReport) -> None:
    cost, audit = night.cost, night.audit
    by_side = {side: usage.cost for side, usage in cost.encoders.items()}
    by_side |= {side: usage.cost for side, usage in cost.usages.items()}
    gauges.many("side_cost_usd", "Cost by side.", [({"side": side}, amount) for side, amount in by_side.items()])
    gauges.one("cost_usd", "Cost of the run.", cost.total_cost)
    gauges.one("baseline_cost_usd", "What all rows on the large model would have cost.", cost.baseline.cost)
    gauges.one("savings_usd", "Baseline less cost.", None if cost.savings is None else cost.savings.usd)
    gauges.one("savings_ratio", "Savings by baseline.", None if cost.savings is None else cost.savings.share)
    gauges.one("audit_cost_usd", "Cost of the audit.", None if audit is None else audit.cost)


def _work(gauges: _Gauges, night: NightReport) -> None:
    tokens: list[Sample] = [
        ({"side": side, "direction": "input"}, usage.tokens) for side, usage in night.cost.encoders.items()
    ]
    for side, usage in night.cost.usages.items():
        tokens.append(({"side": side, "direction": "input"}, usage.tokens_read))
        tokens.append(({"side": side, "direction": "output"}, usage.tokens_written))
    gauges.many("tokens", "Tokens by side and direction.", tokens)
    gauges.many(
        "cached_tokens",
        "Input tokens that the provider, or the engine, read from its cache, by side.",
        [({"side": side}, usage.cached_tokens) for side, usage in night.cost.usages.items() if usage.cached_tokens],
    )
    gauges.many(
        "cache_hit_rows",
        "Rows with an answer of an earlier run, by side.",
        [({"side": side}, usage.hits) for side, usage in night.cost.usages.items() if usage.hits],
    )
    gauges.many(
        "cache_hit_saved_usd",
        "What these answers would have cost, by side.",
        [({"side": side}, usage.hit_cost) for side, usage in night.cost.usages.items()],
    )
    gauges.many(
        "stage_seconds",
        "Seconds of work by stage, over all processes, without loading models.",
        [({"stage": stage.name}, stage.seconds) for stage in night.stages],
    )
    gauges.many(
        "stage_load_seconds",
        "Seconds of loading models by stage.",
        [({"stage": stage.name}, stage.load_seconds) for stage in night.stages],
    )


def _quality(gauges: _Gauges, night: NightReport) -> None:
    _drop(gauges, "expected", "expected by the router's calibration", headline.expected(night))
    _drop(gauges, "audited", "measured by the audit", headline.audited(night))
    if night.audit is not None:
        gauges.one("audited_rows", "Rows of the small model that the large one answered too.", night.audit.rows)
        gauges.one(
            "audited_measured_rows", "Audited rows whose answers both have a measured quality.", night.audit.measured
        )


def _drop(gauges: _Gauges, kind: str, how: str, drop: Range | None) -> None:
    """A drop with its interval, as ratios: reports have it in percent."""
    if drop is None:
        return
    gauges.one(f"{kind}_quality_drop_ratio", f"Quality drop, {how}.", drop.value / 100)
    gauges.one(f"{kind}_quality_drop_low_ratio", f"Lower end of the 95 % interval of the drop {how}.", drop.low / 100)
    gauges.one(f"{kind}_quality_drop_high_ratio", f"Upper end of the 95 % interval of the drop {how}.", drop.high / 100)


def _drift(gauges: _Gauges, night: NightReport) -> None:
    if night.drift is None:
        return
    features = night.drift.features
    gauges.many(
        "drift_psi_ratio",
        "Population stability index of tonight's rows against the calibration's, by feature.",
        [({"feature": feature.name}, feature.psi) for feature in features],
    )
    gauges.many(
        "drifted",
        "1 for a feature that has drifted, else 0.",
        [({"feature": feature.name}, int(feature.drifted)) for feature in features],
    )
