"""A night's costs in FOCUS 1.3, the FinOps Open Cost and Usage Specification: `focus.parquet`.

Each side has one row for each meter: input, cached input and output tokens for a price by token, hours for a price by
time. The table has the columns that 1.3 requires of every dataset (deprecated ones too, for readers of 1.2), and those
on usage, SKU, resource, sub-account and tags. Costs are exact: they add up to the report's total to the last digit.

batchroute computes these charges from prices in the job, so it is their provider and issuer: the provider's own FOCUS
export holds the same money again. FOCUS allows no null cost, so a cost that is not known has no row.
"""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import polars as pl

from batchroute import __version__, words
from batchroute.costs.prices import COST_SCALE, Price, pico, usd
from batchroute.costs.usage import ModelUsage, RouterUsage
from batchroute.reports.night import NightReport

VERSION = "1.3"
MANDATORY = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd"),
    *("BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd"),
    *("ChargePeriodStart", "ContractedCost", "EffectiveCost", "HostProviderName", "InvoiceIssuerName", "ListCost"),
    *("PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName"),
    "ServiceProviderName",
)
"""The columns that FOCUS 1.3 requires in every cost and usage dataset."""

_US = "batchroute"
_DECIMAL, _TIME = pl.Decimal(38, COST_SCALE), pl.Datetime("us", "UTC")
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("BilledCost", "ConsumedQuantity", "ContractedCost", "ContractedUnitPrice"), _DECIMAL),
    **dict.fromkeys(("EffectiveCost", "ListCost", "ListUnitPrice", "PricingQuantity"), _DECIMAL),
    **dict.fromkeys(("BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart"), _TIME),
}
_OF_TEXT = (
    *("BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency", "ChargeCategory"),
    *("ChargeClass", "ChargeDescription", "ChargeFrequency", "ConsumedUnit", "HostProviderName", "InvoiceIssuerName"),
    *("PricingCategory", "PricingUnit", "ProviderName", "PublisherName", "ResourceId", "ResourceName", "ResourceType"),
    *("ServiceCategory", "ServiceName", "ServiceProviderName", "ServiceSubcategory", "SkuId", "SkuMeter"),
    *("SkuPriceId", "SubAccountId", "SubAccountName", "SubAccountType", "Tags"),
)
SCHEMA: dict[str, Any] = dict(sorted({**_TYPES, **dict.fromkeys(_OF_TEXT, pl.String)}.items()))


@dataclass(frozen=True)
class _Charge:
    """Attributes:
    consumed: in `unit`; the price is for a `block` of units.
    unit_price: USD for a block; None if the cost is not exactly this times the blocks.
    """

    meter: str
    consumed: Decimal
    unit: str
    block: int
    cost: Decimal
    unit_price: Decimal | None = None


_PRICED_AS = {"router": "router", "reader": "router", "small": "small"}


def table(night: NightReport, prices: Mapping[str, Price | None] | None = None) -> pl.DataFrame:
    """The night's charges.

    Args:
        prices: of `router`, `small` and `large`, fixed when the run began. A price by token gives a row for each kind
            of token if these add up to the cost exactly. After a retry of failed rows they do not, because the cost
            includes the first answers and the tokens do not: then, and without a price, one row has all tokens.
    """
    rows = [
        {**_of_all(night), **_of_side(night, side, usage), **_of_charge(side, usage.model, charge)}
        for side, usage in _usages(night).items()
        for charge in _charges(usage, (prices or {}).get(_PRICED_AS.get(side, "large")))
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def parquet(night: NightReport, prices: Mapping[str, Price | None] | None = None) -> bytes:
    """`focus.parquet`: the table, with FOCUS's own metadata in the file."""
    file = io.BytesIO()
    metadata = {
        "FocusVersion": VERSION,
        "DataGenerator": f"{_US} {__version__}",
        "CreationDate": night.finished,
    }
    table(night, prices).write_parquet(file, metadata=metadata)
    return file.getvalue()


def _usages(night: NightReport) -> dict[str, RouterUsage | ModelUsage]:
    return {**night.cost.encoders, **night.cost.usages}


def _charges(usage: RouterUsage | ModelUsage, price: Price | None) -> Iterator[_Charge]:
    if usage.cost is None:
        return
    if price is not None and not price.by_token:
        hours = Decimal(str(usage.busy_seconds + usage.load_seconds)) / 3600
        if hours:
            yield _Charge("GPU Hours", hours, "Hours", 1, usage.cost)
        return
    read, cached, written = _tokens(usage)
    if price is not None and cached <= read and price.of_tokens(read, written, cached) == pico(usage.cost):
        for meter, tokens, unit_price in (
            ("Input Tokens", read - cached, price.input),
            ("Cached Input Tokens", cached, price.input if price.cached_input is None else price.cached_input),
            ("Output Tokens", written, price.output),
        ):
            if tokens and unit_price is not None:
                # A price has at most six decimals: this is a whole number of pico-dollars.
                cost = usd(tokens * int(unit_price * 10**6))
                yield _Charge(meter, Decimal(tokens), "Tokens", 10**6, cost, unit_price)
    elif read or written or usage.cost:
        yield _Charge("Input and Output Tokens", Decimal(read + written), "Tokens", 10**6, usage.cost)


def _tokens(usage: RouterUsage | ModelUsage) -> tuple[int, int, int]:
    """Input tokens, how many of them came from a cache, and output tokens."""
    if isinstance(usage, RouterUsage):
        return usage.tokens, 0, 0
    return usage.tokens_read, usage.cached_tokens, usage.tokens_written


def _of_all(night: NightReport) -> dict[str, Any]:
    """The columns that all rows share. All charges are of the UTC day on which the run finished."""
    finished = words.utc(night.finished)
    assert finished is not None
    day = finished.replace(hour=0, minute=0, second=0, microsecond=0)
    month = day.replace(day=1)
    return {
        "BillingAccountId": _US,
        "BillingAccountName": _US,
        "BillingAccountType": "Batch Jobs",
        "BillingCurrency": night.cost.currency,
        "BillingPeriodStart": month,
        "BillingPeriodEnd": (month + datetime.timedelta(days=32)).replace(day=1),
        "ChargePeriodStart": day,
        "ChargePeriodEnd": day + datetime.timedelta(days=1),
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeFrequency": "Usage-Based",
        "PricingCategory": "Standard",
        **dict.fromkeys(("ServiceProviderName", "ProviderName", "PublisherName", "InvoiceIssuerName"), _US),
        "HostProviderName": _US,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": _US,
        "SubAccountId": night.name,
        "SubAccountName": night.name,
        "SubAccountType": "Job",
    }


def _of_side(night: NightReport, side: str, usage: RouterUsage | ModelUsage) -> dict[str, Any]:
    tags = {"job_name": night.name, "run_id": night.run_id, "side": side}
    return {
        "ServiceSubcategory": "Machine Learning" if side == "router" else "Generative AI",
        "ResourceId": usage.model,
        "ResourceName": words.model(usage.model),
        "ResourceType": "Model",
        "Tags": json.dumps(tags, ensure_ascii=False),
    }


def _of_charge(side: str, model: str, charge: _Charge) -> dict[str, Any]:
    sku = f"{model}/{charge.meter}"
    costs = dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), charge.cost)
    return {
        **costs,
        "ListUnitPrice": charge.unit_price,
        "ContractedUnitPrice": charge.unit_price,
        "ChargeDescription": f"{charge.meter}, {side}, {model}",
        "ConsumedQuantity": _rounded(charge.consumed),
        "ConsumedUnit": charge.unit,
        "PricingQuantity": _rounded(charge.consumed / charge.block),
        "PricingUnit": charge.unit if charge.block == 1 else f"{charge.block} {charge.unit}",
        "SkuId": sku,
        "SkuMeter": charge.meter,
        "SkuPriceId": sku,
    }


def _rounded(quantity: Decimal) -> Decimal:
    return round(quantity, COST_SCALE)
