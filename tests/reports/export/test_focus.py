from __future__ import annotations

import datetime
import io
import json
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from batchroute.costs.prices import Price
from batchroute.costs.report import Escalated
from batchroute.costs.usage import ModelUsage
from batchroute.reports.export import focus
from batchroute.reports.night import NightReport
from tests.reports import nights

# From the requirements of FOCUS 1.3 on the cost and usage dataset.
MANDATORY = {
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "HostProviderName", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit",
    "ProviderName", "PublisherName", "ServiceCategory", "ServiceName", "ServiceProviderName",
}  # fmt: skip
COSTS = ["BilledCost", "EffectiveCost", "ListCost", "ContractedCost"]
TIMES = ["BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"]
BY_HOUR = Price.model_validate({"gpu_hour": "2.10"})
SMALL = Price.model_validate({"input": "0.15", "cached_input": "0.075", "output": "0.6"})
LARGE = Price.model_validate({"input": "2.5", "output": "10.000001"})


def priced(model: str, price: Price, read: int, written: int, cached: int = 0, more: str = "0") -> ModelUsage:
    """A model's usage that costs its tokens and `more`."""
    cost = Decimal(price.of_tokens(read, written, cached)).scaleb(-12) + Decimal(more)
    return nights.usage(model, 100, read, written, str(cost)).model_copy(update={"cached_tokens": cached})


def by_token(more: str = "0") -> NightReport:
    small, large = priced("s", SMALL, 123_457, 7_891, 23_456), priced("models/l", LARGE, 999_999, 1, more=more)
    usage = priced("models/l", LARGE, 77, 13)
    escalated = Escalated(rows=3, reasons={"cut": 3}, small_cost=Decimal(0), usage=usage)
    return nights.night(nights.cost(small, large, router_cost="0.030625", escalated=escalated))


PRICES = {"router": BY_HOUR, "small": SMALL, "large": LARGE}


@pytest.mark.parametrize("kind", nights.ALL)
@pytest.mark.parametrize("prices", [None, PRICES])
def test_the_costs_of_every_night_add_up_to_its_total_to_the_last_digit(kind: str, prices: Any) -> None:
    night = nights.ALL[kind]()
    frame = focus.table(night, prices)
    known = [night.cost.router.cost, *(usage.cost for usage in night.cost.usages.values())]
    total = sum((cost for cost in known if cost is not None), Decimal(0))
    assert night.total_cost in (total, None)
    for column in COSTS:
        assert sum(frame[column], Decimal(0)) == total


def test_tokens_are_split_by_kind_where_the_price_is_by_token() -> None:
    night = by_token()
    frame = focus.table(night, PRICES)
    assert sum(frame["BilledCost"], Decimal(0)) == night.total_cost
    of = {
        (json.loads(row["Tags"])["side"], row["SkuMeter"]): (row["ConsumedQuantity"], row["BilledCost"])
        for row in frame.iter_rows(named=True)
    }
    assert {key: found for key, found in of.items() if key[0] == "small"} == {
        ("small", "Input Tokens"): (100_001, Decimal("0.01500015")),
        ("small", "Cached Input Tokens"): (23_456, Decimal("0.0017592")),
        ("small", "Output Tokens"): (7_891, Decimal("0.0047346")),
    }
    assert of["large", "Output Tokens"] == (1, Decimal("0.000010000001"))
    assert of["escalated", "Input Tokens"] == (77, Decimal("0.0001925"))
    assert len(frame) == 3 + 2 + 2 + 1
    tokens = frame.filter(pl.col("ConsumedUnit") == "Tokens")
    assert set(tokens["PricingUnit"]) == {"1000000 Tokens"}
    assert (tokens["PricingQuantity"] * 1_000_000).to_list() == tokens["ConsumedQuantity"].to_list()
    for row in tokens.iter_rows(named=True):
        assert row["ListUnitPrice"] * row["PricingQuantity"] == row["ListCost"]
        assert row["ContractedUnitPrice"] * row["PricingQuantity"] == row["ContractedCost"]


def test_a_price_by_time_is_in_hours() -> None:
    frame = focus.table(by_token(), PRICES).filter(pl.col("SkuMeter") == "GPU Hours")
    (row,) = frame.iter_rows(named=True)
    assert (row["ConsumedUnit"], row["PricingUnit"], row["BilledCost"]) == ("Hours", "Hours", Decimal("0.030625"))
    assert float(row["PricingQuantity"]) == pytest.approx((200 / 240 + 3.1) / 3600)
    assert row["ListUnitPrice"] is None


def test_a_cost_that_differs_from_its_tokens_is_one_row() -> None:
    night = by_token(more="0.004")
    frame = focus.table(night, PRICES)
    assert sum(frame["BilledCost"], Decimal(0)) == night.total_cost
    (row,) = frame.filter(pl.col("SkuId").str.starts_with("models/l/Input and")).iter_rows(named=True)
    assert (row["SkuMeter"], row["ConsumedQuantity"], row["ListUnitPrice"]) == (
        "Input and Output Tokens", 1_000_000, None,
    )  # fmt: skip


def test_a_side_without_a_price_has_no_row() -> None:
    assert focus.table(nights.unknown(), PRICES).is_empty()
    night = nights.night(nights.cost(nights.usage("s", 6, 60, 6, "0.25"), nights.usage("l", 4, 40, 4, None)))
    assert set(focus.table(night)["ResourceId"]) == {"models/router-2026-11", "s"}


@pytest.mark.parametrize("kind", nights.ALL)
def test_the_columns_are_those_of_the_specification(kind: str) -> None:
    frame = focus.table(nights.ALL[kind]())
    assert set(focus.MANDATORY) == MANDATORY
    assert set(frame.columns) >= MANDATORY
    assert frame.columns == sorted(frame.columns)
    nullable = {"ChargeClass", "ListUnitPrice", "ContractedUnitPrice"}
    assert {name for name in frame.columns if frame[name].null_count()} <= nullable
    decimals = [*COSTS, "ConsumedQuantity", "PricingQuantity", "ListUnitPrice", "ContractedUnitPrice"]
    assert {str(frame.schema[name]) for name in decimals} == {str(pl.Decimal(38, 12))}
    assert {frame.schema[name] for name in TIMES} == {pl.Datetime("us", "UTC")}
    others = set(frame.columns) - {*decimals, *TIMES}
    assert {frame.schema[name] for name in others} == {pl.String()}


def test_the_values_are_among_those_that_the_specification_allows() -> None:
    row = focus.table(nights.full()).filter(pl.col("Tags").str.contains('"large"')).row(0, named=True)
    assert (row["BillingCurrency"], row["ChargeCategory"], row["ChargeClass"]) == ("USD", "Usage", None)
    assert (row["ChargeFrequency"], row["PricingCategory"]) == ("Usage-Based", "Standard")
    assert (row["ServiceCategory"], row["ServiceSubcategory"]) == ("AI and Machine Learning", "Generative AI")
    assert (row["ResourceId"], row["SubAccountId"]) == ("gpt-4.1", "nightly-support")
    assert json.loads(row["Tags"]) == {"job_name": "nightly-support", "run_id": nights.RUN_ID, "side": "large"}


@pytest.mark.parametrize(
    ("finished", "day", "month", "next_month"),
    [
        ("2026-11-24T02:14:09.120+00:00", (2026, 11, 24), (2026, 11, 1), (2026, 12, 1)),
        ("2027-01-01T00:30:00+02:00", (2026, 12, 31), (2026, 12, 1), (2027, 1, 1)),
    ],
)
def test_charges_are_of_the_day_in_utc_on_which_the_run_finished(
    finished: str, day: tuple[int, int, int], month: tuple[int, int, int], next_month: tuple[int, int, int]
) -> None:
    night = nights.full().model_copy(update={"finished": finished})
    row = focus.table(night).row(0, named=True)
    start = datetime.datetime(*day, tzinfo=datetime.UTC)
    assert (row["ChargePeriodStart"], row["ChargePeriodEnd"]) == (start, start + datetime.timedelta(days=1))
    assert row["BillingPeriodStart"] == datetime.datetime(*month, tzinfo=datetime.UTC)
    assert row["BillingPeriodEnd"] == datetime.datetime(*next_month, tzinfo=datetime.UTC)


def test_the_file_names_its_version_and_other_tools_read_it() -> None:
    night = by_token()
    data = focus.parquet(night, PRICES)
    metadata = pq.read_metadata(io.BytesIO(data)).metadata
    assert metadata[b"FocusVersion"] == b"1.3"
    assert metadata[b"DataGenerator"].startswith(b"batchroute ")
    table = pq.read_table(io.BytesIO(data))
    assert str(table.schema.field("BilledCost").type) == "decimal128(38, 12)"
    assert sum(table["BilledCost"].to_pylist(), Decimal(0)) == night.total_cost
