from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchroute.costs import report as reports
from batchroute.costs.columns import COST
from batchroute.costs.prices import Price
from batchroute.costs.report import CostReport, Escalated
from batchroute.costs.usage import ModelUsage, RouterUsage, model_usage, router_usage
from batchroute.storage.receipts import Receipt

BY_TOKEN = Price.model_validate({"input": 1, "output": 10})
BY_HOUR = Price.model_validate({"gpu_hour": 3.6})
CHEAP = Price.model_validate({"input": 0.1, "output": 0.1})
FREE = Price.model_validate({"input": 0, "output": 0})
ROUTER = Price.model_validate({"gpu_hour": 0.36})


def receipt(rows: int, seconds: float = 0.0, load: float = 0.0, **counts: int) -> Receipt:
    return Receipt(
        run_id="run", unit="00000", rows=rows, first=0, last=rows - 1, seconds=seconds, load_seconds=load,
        counts=counts, file="00000.parquet", bytes=1, sha256="ab",
    )  # fmt: skip


def scored(price: Price | None = ROUTER, rows: int = 10) -> RouterUsage:
    return router_usage("models/router", price, [receipt(rows, 10.0, 10.0, tokens=rows * 5)] if rows else [])


def usage(
    price: Price | None, generated: int, read: int, written: int, seconds: float = 0.0, load: float = 0.0,
    copies: int = 0, failed: int = 0, tokens: int | None = None, cost: int | None = None, source: str = "",
    **special: int,
) -> ModelUsage:  # fmt: skip
    """A model's shard in one piece; the cost of its rows follows from its tokens, or from its seconds.

    Args:
        special: tokens that are cached or reasoning, rows that are estimated, and rows that are `answered` where these
            are not all that have not failed.
    """
    if not generated:
        return model_usage("m", price, [], [], source)
    if cost is None and price is not None:
        cached = special.get("cached_tokens", 0)
        cost = price.of_tokens(read, written, cached) if price.by_token else price.of_seconds(seconds)
    counts = {
        "generated": generated, "copies": copies, "answered": generated - failed, "failed": failed, "cut": 0,
        "input_tokens": read, "cached_tokens": 0, "output_tokens": written, "reasoning_tokens": 0, "estimated": 0,
        "cost_pico": cost or 0, **special,
    }  # fmt: skip
    shard = receipt(generated + copies, tokens=read if tokens is None else tokens)
    return model_usage("m", price, [shard], [receipt(generated + copies, seconds, load, **counts)], source)


def gone_on(usage: ModelUsage, small_cost: str = "0", **reasons: int) -> Escalated:
    """Escalated rows that took `usage` on the large model."""
    return Escalated(
        rows=usage.rows, reasons=reasons or {"invalid": usage.rows}, small_cost=Decimal(small_cost), usage=usage
    )


def build(
    small: ModelUsage,
    large: ModelUsage,
    price: Price | None,
    router: RouterUsage | None = None,
    escalated: Escalated | None = None,
) -> CostReport:
    total = small.rows + large.rows
    rows = {
        "total": total,
        "ok": total,
        "failed": 0,
        "small": small.rows - (0 if escalated is None else escalated.rows),
        "large": large.rows,
        "escalated": 0 if escalated is None else escalated.rows,
        "unrouted": 0,
        "copies": 0,
    }
    router = router or scored()
    return reports.build("job", "run", rows, router, small, large, price, pl.DataFrame(), {}, escalated)


class TestUsage:
    def test_the_routers_usage_is_added_up(self) -> None:
        units = [
            receipt(10, 1.5, 3.0, tokens=50, failed=2, truncated=1, unscored=0),
            receipt(5, 0.5, tokens=7, failed=0, truncated=0, unscored=1),
        ]
        used = router_usage("r", BY_HOUR, units)
        assert (used.rows, used.tokens, used.truncated, used.unscored) == (13, 57, 1, 1)
        assert (used.busy_seconds, used.load_seconds) == (2.0, 3.0)
        assert used.cost == Decimal("0.005")

    def test_a_router_can_have_a_price_by_token(self) -> None:
        assert router_usage("r", BY_TOKEN, [receipt(1, 9.0, tokens=1000)]).cost == Decimal("0.001")

    def test_a_model_by_the_hour_costs_its_loading_too(self) -> None:
        assert usage(BY_HOUR, 4, 10, 10, seconds=2.0, load=1.0).cost == Decimal("0.003")

    def test_a_model_by_token_does_not_cost_its_loading(self) -> None:
        assert usage(BY_TOKEN, 4, 100, 10, seconds=2.0, load=1.0).cost == Decimal("0.0002")

    def test_usage_has_tokens_of_special_kinds_and_the_source_of_the_price(self) -> None:
        used = usage(
            BY_TOKEN, 4, 100, 30, failed=2, source="prices.yaml", answered=3, cached_tokens=60, reasoning_tokens=20,
            estimated=1,
        )  # fmt: skip
        assert (used.generated, used.failed, used.answered, used.estimated) == (4, 2, 3, 1)
        assert (used.input_tokens, used.cached_tokens) == (100, 60)
        assert (used.output_tokens, used.reasoning_tokens) == (30, 20)
        assert used.price == "prices.yaml"

    def test_without_a_price_there_is_no_cost(self) -> None:
        assert usage(None, 4, 100, 10).cost is None
        assert scored(None).cost is None

    def test_a_shard_without_rows_with_a_price_costs_nothing(self) -> None:
        assert usage(BY_TOKEN, 0, 0, 0).cost == 0


class TestBuild:
    def test_the_total_is_the_router_and_both_models(self) -> None:
        report = build(usage(CHEAP, 6, 600, 60), usage(BY_TOKEN, 4, 400, 40), BY_TOKEN)
        assert report.router.cost == Decimal("0.002")
        assert report.total_cost == Decimal("0.002") + Decimal("0.000066") + Decimal("0.0008")
        assert report.cost_advantage == 0.6
        assert report.missing_prices == []

    def test_by_token_the_small_rows_are_priced_by_their_prompts_and_the_large_rows_answers(self) -> None:
        # The large model read 2 tokens per token of the router, and wrote 10 tokens per row.
        small = usage(CHEAP, 6, 999, 999, tokens=300)
        large = usage(BY_TOKEN, 4, 400, 40, tokens=200)
        baseline = build(small, large, BY_TOKEN).baseline
        assert baseline.cost == Decimal("0.0008") + Decimal(600 * 1 + 60 * 10) / 10**6
        assert "written as many tokens per row (10.0)" in baseline.assumption

    def test_by_token_failed_rows_of_the_large_model_do_not_count_as_answers(self) -> None:
        small = usage(CHEAP, 6, 600, 60, tokens=600)
        large = usage(BY_TOKEN, 8, 400, 40, failed=4, tokens=400)
        assert build(small, large, BY_TOKEN).baseline.cost == Decimal("0.0008") + Decimal(600 + 60 * 10) / 10**6

    def test_by_token_failed_rows_that_the_large_model_answered_count_as_its_answers(self) -> None:
        small = usage(CHEAP, 6, 600, 60, tokens=600)
        large = usage(BY_TOKEN, 8, 800, 60, failed=4, answered=6, tokens=800)
        # 60 tokens in 6 answers: 10 a row.
        assert build(small, large, BY_TOKEN).baseline.cost == Decimal("0.0014") + Decimal(600 + 60 * 10) / 10**6

    def test_by_token_the_small_rows_would_have_been_cached_as_the_large_ones_were(self) -> None:
        price = Price.model_validate({"input": 1, "cached_input": "0.1", "output": 10})
        small = usage(CHEAP, 6, 600, 60, tokens=600)
        large = usage(price, 4, 400, 40, cached_tokens=100, tokens=400)
        # A quarter of the large model's input was cached: 150 of the 600 tokens.
        spent = Decimal(300) + 100 * Decimal("0.1") + 400
        added = Decimal(450) + 150 * Decimal("0.1") + 600
        assert build(small, large, price).baseline.cost == (spent + added) / 10**6

    def test_by_token_without_large_rows_the_small_models_tokens_stand_for_the_large_ones(self) -> None:
        report = build(usage(CHEAP, 6, 600, 60), usage(BY_TOKEN, 0, 0, 0), BY_TOKEN)
        assert report.baseline.cost == Decimal(600 + 600) / 10**6
        assert "as many tokens as the small model did" in report.baseline.assumption

    def test_by_the_hour_a_small_row_takes_as_long_as_a_large_one(self) -> None:
        small, large = usage(FREE, 6, 6, 6), usage(BY_HOUR, 4, 4, 4, seconds=8.0, load=5.0)
        # Four rows in 8 s, so that six more take 12 s; the model is loaded once.
        assert build(small, large, BY_HOUR).baseline.cost == Decimal("0.025")

    def test_escalated_rows_cost_on_both_models_and_are_in_the_baseline_once(self) -> None:
        small = usage(CHEAP, 6, 600, 60, tokens=600)
        large = usage(BY_TOKEN, 4, 400, 40, tokens=400)
        escalated = gone_on(usage(BY_TOKEN, 2, 200, 80, tokens=200), "0.00001")
        report = build(small, large, BY_TOKEN, escalated=escalated)
        assert report.total_cost == Decimal("0.002") + Decimal("0.000066") + Decimal("0.0008") + Decimal("0.001")
        # Six rows on the large model have 120 output tokens: 20 for each of the four other rows.
        assert report.baseline.cost == Decimal("0.0018") + Decimal(400 + 4 * 20 * 10) / 10**6
        assert "written as many tokens per row (20.0)" in report.baseline.assumption
        assert report.savings is not None
        assert report.savings.usd == report.baseline.cost - report.total_cost
        assert report.cost_advantage == 0.6
        assert CostReport.model_validate_json(report.model_dump_json()).escalated == escalated

    def test_by_the_hour_escalated_rows_count_for_the_large_models_speed(self) -> None:
        small, large = usage(FREE, 6, 6, 6), usage(BY_HOUR, 0, 0, 0)
        escalated = gone_on(usage(BY_HOUR, 2, 2, 2, seconds=4.0, load=5.0))
        # Two rows in 4 s, so that the four others take 8 s; the model is loaded once.
        assert build(small, large, BY_HOUR, escalated=escalated).baseline.cost == Decimal("0.017")

    def test_when_all_small_rows_escalate_the_baseline_is_the_large_models_cost(self) -> None:
        escalated = gone_on(usage(BY_TOKEN, 6, 600, 60))
        report = build(usage(FREE, 6, 600, 60), usage(BY_TOKEN, 4, 400, 40), BY_TOKEN, scored(FREE), escalated)
        assert report.baseline.cost == report.total_cost == Decimal("0.002")
        assert report.baseline.assumption == "every row was sent to the large model"

    def test_with_nothing_to_escalate_all_figures_are_as_without_escalation(self) -> None:
        small, large = usage(CHEAP, 6, 600, 60), usage(BY_TOKEN, 4, 400, 40)
        report = build(small, large, BY_TOKEN, escalated=gone_on(usage(BY_TOKEN, 0, 0, 0)))
        assert report.model_copy(update={"escalated": None}) == build(small, large, BY_TOKEN)

    def test_a_missing_price_of_the_large_model_is_listed_once_and_says_why(self) -> None:
        small, large = usage(CHEAP, 6, 600, 60), usage(None, 4, 400, 40, source="not in prices.yaml")
        report = build(small, large, None, escalated=gone_on(usage(None, 2, 200, 20)))
        assert report.missing_prices == ["models.large.price"]
        assert report.total_cost is None
        assert report.baseline.assumption == "not known: models.large.price is missing (not in prices.yaml)"

    def test_by_the_hour_without_large_rows_the_baseline_is_not_known(self) -> None:
        report = build(usage(FREE, 6, 6, 6), usage(BY_HOUR, 0, 0, 0), BY_HOUR)
        assert report.baseline.cost is None
        assert report.baseline.assumption.startswith("not known: no row ran on the large model")
        assert report.savings is None
        assert report.total_cost == Decimal("0.002")

    def test_with_all_rows_on_the_large_model_only_the_routers_cost_is_lost(self) -> None:
        report = build(usage(CHEAP, 0, 0, 0), usage(BY_TOKEN, 4, 400, 40), BY_TOKEN)
        assert report.baseline.cost == Decimal("0.0008")
        assert report.savings is not None
        assert report.savings.usd == Decimal("-0.002")
        assert report.savings.share == Decimal("-2.5")

    def test_savings_are_positive_when_the_run_was_cheaper(self) -> None:
        report = build(usage(FREE, 9, 900, 90), usage(BY_TOKEN, 1, 100, 10), BY_TOKEN, scored(FREE))
        assert report.savings is not None
        assert report.total_cost == Decimal("0.0002")
        assert report.baseline.cost == Decimal("0.002")
        assert report.savings.usd == Decimal("0.0018")
        assert report.savings.share == Decimal("0.9")

    def test_a_large_model_that_costs_nothing_has_no_share_of_savings(self) -> None:
        report = build(usage(FREE, 6, 6, 6), usage(FREE, 4, 4, 4), FREE)
        assert report.savings is not None
        assert report.savings.usd == Decimal("-0.002")
        assert report.savings.share is None

    @pytest.mark.parametrize("router", [ROUTER, None])
    @pytest.mark.parametrize("small", [CHEAP, None])
    @pytest.mark.parametrize("large", [BY_TOKEN, BY_HOUR, None])
    def test_a_missing_price_is_null_and_listed_and_never_zero(
        self, router: Price | None, small: Price | None, large: Price | None
    ) -> None:
        prices = {"router.price": router, "models.small.price": small, "models.large.price": large}
        report = build(usage(small, 6, 600, 60), usage(large, 4, 400, 40, seconds=1.0), large, scored(router))
        missing = [key for key, price in prices.items() if price is None]
        assert report.missing_prices == missing
        assert (report.total_cost is None) == bool(missing)
        assert (report.savings is None) == bool(missing)
        assert (report.baseline.cost is None) == (large is None)
        tree = json.loads(report.model_dump_json())
        costs = [tree["router"]["cost"], tree["models"]["small"]["cost"], tree["models"]["large"]["cost"]]
        assert [cost is None for cost in costs] == [price is None for price in prices.values()]

    def test_a_run_without_rows_costs_nothing_and_saves_nothing(self) -> None:
        report = build(usage(CHEAP, 0, 0, 0), usage(BY_TOKEN, 0, 0, 0), BY_TOKEN, scored(ROUTER, rows=0))
        assert report.total_cost == report.baseline.cost == 0
        assert report.savings is not None
        assert report.savings.usd == 0
        assert report.savings.share is None
        assert report.cost_advantage is None

    def test_a_report_survives_its_file_to_the_last_digit(self) -> None:
        large = usage(BY_TOKEN, 4, 400, 40, cost=123456789012345)
        report = build(usage(CHEAP, 6, 600, 60), large, BY_TOKEN)
        assert report.models["large"].cost == Decimal("123.456789012345")
        assert CostReport.model_validate_json(report.model_dump_json()) == report


def output(folder: Path, prefix: str = "", priced: bool = True) -> list[Path]:
    """Two committed files with rows that are answered, copied, failed on the model, or without a usable prompt."""
    cost = [Decimal("0.000000000001"), Decimal("0.1"), Decimal("0.2"), Decimal(0), Decimal("0.3"), Decimal(0)]
    results: dict[str, Any] = {
        "route": ["small", "large", "large", "large", "large", None],
        "status": ["ok", "ok", "ok", "ok", "failed", "failed"],
        "input_tokens": [1, 2, 4, 4, 8, None],
        "output_tokens": [10, 20, 40, 40, 0, None],
        "cost": [*(cost if priced else [None] * 5), Decimal(0)] if not priced else cost,
        "error_type": [None, None, None, None, "model_error", "null_prompt"],
        "attempts": [1, 1, 1, 0, 2, 0],
    }
    frame = pl.DataFrame(
        {"team": ["a", "a", "b", "b", "b", None], **{prefix + name: values for name, values in results.items()}},
        schema_overrides={prefix + "cost": pl.Decimal(COST.precision, COST.scale)},
    )
    for number, rows in enumerate((frame[:3], frame[3:])):
        rows.write_parquet(folder / f"{number}.parquet")
    return [folder / "0.parquet", folder / "1.parquet"]


GROUPS = ["team", "route", "rows", "failed", "input_tokens", "output_tokens", "cost"]


class TestGroups:
    @pytest.mark.parametrize("prefix", ["", "br_"])
    def test_costs_are_split_by_group_and_route(self, tmp_path: Path, prefix: str) -> None:
        groups = reports.by_group(output(tmp_path, prefix), prefix, ["team"])
        assert groups.columns == GROUPS
        # Copies and failures have tokens of their original or none: they were not generated.
        assert groups.rows() == [
            (None, None, 1, 1, 0, 0, Decimal(0)),
            ("a", "large", 1, 0, 2, 20, Decimal("0.1")),
            ("a", "small", 1, 0, 1, 10, Decimal("0.000000000001")),
            ("b", "large", 3, 1, 4, 40, Decimal("0.5")),
        ]

    def test_tokens_of_failed_rows_count_where_the_model_answered_all_the_same(self, tmp_path: Path) -> None:
        groups = reports.by_group(output(tmp_path), "", [], ["model_error"]).filter(route="large")
        assert groups.select("failed", "input_tokens", "output_tokens").rows() == [(1, 14, 60)]

    def test_escalated_rows_have_their_own_route_and_the_large_models_name(self, tmp_path: Path) -> None:
        first, second = output(tmp_path)
        pl.read_parquet(second).with_columns(route=pl.lit("small→large")).write_parquet(second)
        groups = reports.by_group([first, second], "", [])
        assert groups["route"].to_list() == ["large", "small", "small→large"]
        report = build(usage(CHEAP, 1, 1, 10), usage(BY_TOKEN, 4, 4, 40), BY_TOKEN)
        assert reports.to_frame(report, groups)["model"].to_list() == ["m", "m", "m", "models/router"]

    def test_without_a_group_there_is_a_row_a_route(self, tmp_path: Path) -> None:
        groups = reports.by_group(output(tmp_path), "", [])
        assert groups.columns == GROUPS[1:]
        assert groups["rows"].sum() == 6
        assert groups["cost"].sum() == Decimal("0.600000000001")

    def test_without_a_price_a_group_has_no_cost(self, tmp_path: Path) -> None:
        groups = reports.by_group(output(tmp_path, priced=False), "", ["team"])
        assert groups["cost"].to_list() == [Decimal(0), None, None, None]

    def test_an_output_without_rows_has_no_groups(self, tmp_path: Path) -> None:
        first, _ = output(tmp_path)
        pl.read_parquet(first).clear().write_parquet(first)
        assert reports.by_group([first], "", ["team"]).rows() == []
        assert reports.failures([first], "") == {}

    @pytest.mark.parametrize("prefix", ["", "br_"])
    def test_failures_are_counted_by_kind(self, tmp_path: Path, prefix: str) -> None:
        assert reports.failures(output(tmp_path, prefix), prefix) == {"model_error": 1, "null_prompt": 1}

    def test_the_table_of_costs_adds_up_to_the_report(self, tmp_path: Path) -> None:
        groups = reports.by_group(output(tmp_path), "", ["team"])
        report = build(usage(CHEAP, 1, 1, 10), usage(BY_TOKEN, 4, 4, 40), BY_TOKEN)
        frame = reports.to_frame(report, groups)
        assert frame.columns == ["name", "run_id", "team", *reports.COLUMNS[2:]]
        assert frame["route"].to_list() == [None, "large", "small", "large", "router"]
        assert frame["model"].to_list() == [None, "m", "m", "m", "models/router"]
        assert frame["cost"].dtype == groups["cost"].dtype
        assert frame["cost"].sum() == groups["cost"].sum() + Decimal("0.002")
        assert frame["rows"].to_list() == [1, 1, 1, 3, 10]

    def test_the_router_without_a_price_has_no_cost_in_the_table(self, tmp_path: Path) -> None:
        groups = reports.by_group(output(tmp_path), "", [])
        report = build(usage(CHEAP, 1, 1, 10), usage(BY_TOKEN, 4, 4, 40), BY_TOKEN, scored(None))
        assert reports.to_frame(report, groups)["cost"].to_list()[-1] is None


def test_answers_from_the_cache_cost_nothing_and_are_no_part_of_the_baseline() -> None:
    hits = {"hits": 3, "hit_input_tokens": 30, "hit_output_tokens": 6, "hit_cost_pico": 90, "hit_prompt_tokens": 25}
    small = usage(CHEAP, 6, 60, 12, tokens=85, **hits)
    assert (small.hits, small.hit_input_tokens, small.hit_output_tokens, small.router_tokens) == (3, 30, 6, 60)
    assert small.hit_cost == Decimal("0.000000000090")
    assert usage(BY_HOUR, 6, 60, 12, **hits).hit_cost is usage(None, 6, 60, 12, **hits).hit_cost is None
    assert usage(CHEAP, 6, 60, 12).hit_cost is None
    without = usage(CHEAP, 6, 60, 12, tokens=60)
    large = usage(BY_TOKEN, 4, 40, 8, tokens=40)
    found, expected = build(small, large, BY_TOKEN).baseline, build(without, large, BY_TOKEN).baseline
    assert found.cost == expected.cost
    assert found.assumption == f"{expected.assumption}; answers from the cache are left out"
    none_asked = usage(CHEAP, 1, 0, 0, **hits).model_copy(update={"generated": 0})
    assert build(none_asked, large, BY_TOKEN).baseline.assumption == (
        "every row was sent to the large model; answers from the cache are left out"
    )


def test_of_rows_that_went_on_as_many_were_asked_as_of_the_others() -> None:
    """8 rows, 4 of them hits; 4 went on, 2 of them hits: 2 of the 4 that were asked are on the small model alone."""
    small = usage(CHEAP, 4, 40, 8, tokens=80, hits=4, hit_prompt_tokens=40)
    again = gone_on(usage(BY_TOKEN, 2, 20, 4, tokens=40, hits=2, hit_prompt_tokens=20))
    report = build(small, usage(BY_TOKEN, 0, 0, 0), BY_TOKEN, escalated=again)
    assert report.baseline.cost == 2 * (again.usage.cost or 0)
