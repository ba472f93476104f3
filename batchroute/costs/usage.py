"""What a run used: rows, tokens and seconds of the router and of each model, added up from receipts."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from batchroute.costs.prices import Price, usd
from batchroute.storage.receipts import Receipt


class RouterUsage(BaseModel):
    """What scoring took. Seconds are device time; `tokens` are those of the prompts before truncation."""

    model_config = ConfigDict(frozen=True)

    model: str
    rows: int
    tokens: int
    truncated: int
    unscored: int
    busy_seconds: float
    load_seconds: float
    cost: Decimal | None
    price: str = ""


class ModelUsage(BaseModel):
    """What one model's shard took.

    `rows` is the shard: `generated` by the model, and `copies` of these answers for identical prompts. `answered` are
    those generated rows whose tokens count: failed ones too, where the model answered what is of no use. Tokens are the
    model's own; `cached_tokens` are part of the input, `reasoning_tokens` of the output, and `estimated` are rows whose
    tokens were counted here since the endpoint did not say. `router_tokens` are the router's count of the generated
    rows' prompts, a measure common to both shards. `cost` holds the rows' costs and, where time has a price, that of
    loading the model; `price` says where the price is from.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    rows: int
    generated: int
    copies: int
    answered: int = 0
    failed: int
    cut: int
    input_tokens: int
    cached_tokens: int = 0
    output_tokens: int
    reasoning_tokens: int = 0
    estimated: int = 0
    router_tokens: int
    busy_seconds: float
    load_seconds: float
    cost: Decimal | None
    price: str = ""


def router_usage(model: str, price: Price | None, scored: Collection[Receipt], source: str = "") -> RouterUsage:
    busy, load = sum(receipt.seconds for receipt in scored), sum(receipt.load_seconds for receipt in scored)
    tokens = _total(scored, "tokens")
    if price is None:
        cost = None
    else:
        cost = usd(price.of_tokens(tokens, 0) if price.by_token else price.of_seconds(busy + load))
    return RouterUsage(
        model=model,
        rows=sum(receipt.rows for receipt in scored) - _total(scored, "failed"),
        tokens=tokens,
        truncated=_total(scored, "truncated"),
        unscored=_total(scored, "unscored"),
        busy_seconds=busy,
        load_seconds=load,
        cost=cost,
        price=source,
    )


def model_usage(
    model: str, price: Price | None, shard: Collection[Receipt], generated: Collection[Receipt], source: str = ""
) -> ModelUsage:
    load = sum(receipt.load_seconds for receipt in generated)
    cost = None
    if price is not None:
        cost = usd(_total(generated, "cost_pico") + (0 if price.by_token else price.of_seconds(load)))
    names = (
        *("generated", "copies", "answered", "failed", "cut"),
        *("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "estimated"),
    )
    return ModelUsage(
        model=model,
        rows=sum(receipt.rows for receipt in generated),
        router_tokens=_total(shard, "tokens"),
        busy_seconds=sum(receipt.seconds for receipt in generated),
        load_seconds=load,
        cost=cost,
        price=source,
        **{name: _total(generated, name) for name in names},
    )


def _total(receipts: Collection[Receipt], name: str) -> int:
    return sum(receipt.counts.get(name, 0) for receipt in receipts)
