from __future__ import annotations

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from batchroute.reports.export.metrics import render
from batchroute.reports.night import NightReport
from tests.reports import nights

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: str) -> Series:
    """All samples, by name and labels without the job's name; read alike by the parsers of both formats."""
    by_parser: list[Series] = []
    for module in (parser, openmetrics):
        families = list(module.text_string_to_metric_families(text))
        assert all(family.type == "gauge" for family in families)
        samples = [sample for family in families for sample in family.samples]
        by_parser.append(
            {(s.name, frozenset((k, v) for k, v in s.labels.items() if k != "job_name")): s.value for s in samples}
        )
        assert len(by_parser[-1]) == len(samples), "each series is there once"
    assert by_parser[0] == by_parser[1]
    return by_parser[0]


def value(metrics: Series, name: str, **labels: str) -> float:
    return metrics[f"batchroute_{name}", frozenset(labels.items())]


@pytest.mark.parametrize("kind", nights.ALL)
def test_both_parsers_read_every_night_and_its_job_is_named_in_every_sample(kind: str) -> None:
    night = nights.ALL[kind]()
    text = render(night)
    assert text.endswith("# EOF\n")
    assert series(text)
    samples = [s for family in parser.text_string_to_metric_families(text) for s in family.samples]
    assert {sample.labels["job_name"] for sample in samples} == {night.name}


def test_a_full_night_has_all_metrics() -> None:
    metrics = series(render(nights.full()))
    assert value(metrics, "rows", status="ok") + value(metrics, "rows", status="failed") == 120_000
    routes = {
        route: value(metrics, "routed_rows", route=route) for route in ("small", "large", "escalated", "unrouted")
    }
    assert routes == {"small": 84_110, "large": 34_700, "escalated": 940, "unrouted": 250}
    assert value(metrics, "copied_rows") == 3_190
    assert value(metrics, "failed_rows", error_type="null_prompt") == 250
    assert value(metrics, "cost_advantage_ratio") == pytest.approx(85_050 / 119_750)
    assert value(metrics, "side_cost_usd", side="router") == 1.6993
    assert value(metrics, "side_cost_usd", side="escalated") == 1.71
    assert value(metrics, "cost_usd") == 84.10249
    assert value(metrics, "baseline_cost_usd") == 296.5034
    assert value(metrics, "savings_usd") == pytest.approx(296.5034 - 84.10249)
    assert value(metrics, "savings_ratio") == pytest.approx(0.716352)
    assert value(metrics, "audit_cost_usd") == 2.114
    assert value(metrics, "tokens", side="small", direction="output") == 16_160_000
    assert value(metrics, "tokens", side="router", direction="input") == 119_750 * 96
    assert value(metrics, "stage_seconds", stage="score") == 498.9
    assert value(metrics, "stage_load_seconds", stage="small") == 41
    assert value(metrics, "last_success_timestamp_seconds") == pytest.approx(1_795_486_449.12)
    assert value(metrics, "run_info", run_id=nights.RUN_ID) == 1
    assert value(metrics, "audited_rows") == 850
    assert value(metrics, "drift_psi_ratio", feature="length") == 0.27
    assert {f: value(metrics, "drifted", feature=f) for f in ("score", "language")} == {"score": 1, "language": 0}


def test_drops_are_ratios_with_their_intervals() -> None:
    metrics = series(render(nights.full()))
    for kind, (drop, low, high) in {"expected": (0.6, 0.1, 1.2), "audited": (0.8, 0.2, 1.4)}.items():
        assert value(metrics, f"{kind}_quality_drop_ratio") == pytest.approx(drop / 100)
        assert value(metrics, f"{kind}_quality_drop_low_ratio") == pytest.approx(low / 100)
        assert value(metrics, f"{kind}_quality_drop_high_ratio") == pytest.approx(high / 100)


def test_an_unknown_figure_has_no_sample() -> None:
    names = {name for name, _ in series(render(nights.unknown()))}
    assert names == {
        f"batchroute_{name}"
        for name in (
            *("run_info", "last_success_timestamp_seconds", "rows", "routed_rows", "copied_rows"),
            *("cost_advantage_ratio", "tokens"),
        )
    }


def test_one_missing_price_leaves_the_other_costs() -> None:
    night = nights.night(nights.cost(nights.usage("s", 6, 60, 6, "0.25"), nights.usage("l", 4, 40, 4, None)))
    metrics = series(render(night))
    assert value(metrics, "side_cost_usd", side="small") == 0.25
    assert ("batchroute_side_cost_usd", frozenset({("side", "large")})) not in metrics
    assert "batchroute_cost_usd" not in {name for name, _ in metrics}


def test_an_audit_without_a_drop_has_no_sample_of_it() -> None:
    night = nights.full().model_copy(update={"audit": nights.audit(None, None, None)})
    metrics = series(render(night))
    assert value(metrics, "audit_cost_usd") == 2.114
    assert "batchroute_audited_quality_drop_ratio" not in {name for name, _ in metrics}


def test_groups_make_no_series() -> None:
    few, many = (series(render(nights.by_group(groups))) for groups in (2, 400))
    assert few.keys() == many.keys()
    assert len(many) < 40


def test_only_the_info_metric_names_the_run() -> None:
    night: NightReport = nights.full()
    lines = [line for line in render(night).splitlines() if nights.RUN_ID in line]
    assert [line.split("{")[0] for line in lines] == ["batchroute_run_info"]
