"""What a run used: rows, tokens and seconds of the router and of each model, added up from receipts."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from batchroute.costs.prices import Price, usd
from batchroute.storage.workdir import Receipt


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


class ModelUsage(BaseModel):
    """What one model's shard took.

    `rows` is the shard: `generated` by the model, and `copies` of these answers for identical prompts. Tokens are the
    model's own; `router_tokens` are the router's count of the generated rows' prompts, a measure common to both shards.
    `cost` holds the rows' costs and, where time has a price, that of loading the model.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    rows: int
    generated: int
    copies: int
    failed: int
    cut: int
    input_tokens: int
    output_tokens: int
    router_tokens: int
    busy_seconds: float
    load_seconds: float
    cost: Decimal | None


def router_usage(model: str, price: Price | None, scored: Collection[Receipt]) -> RouterUsage:
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
    )


def model_usage(
    model: str, price: Price | None, shard: Collection[Receipt], generated: Collection[Receipt]
) -> ModelUsage:
    load = sum(receipt.load_seconds for receipt in generated)
    cost = None
    if price is not None:
        cost = usd(_total(generated, "cost_pico") + (0 if price.by_token else price.of_seconds(load)))
    names = ("generated", "copies", "failed", "cut", "input_tokens", "output_tokens")
    return ModelUsage(
        model=model,
        rows=sum(receipt.rows for receipt in generated),
        router_tokens=_total(shard, "tokens"),
        busy_seconds=sum(receipt.seconds for receipt in generated),
        load_seconds=load,
        cost=cost,
        **{name: _total(generated, name) for name in names},
    )


def _total(receipts: Collection[Receipt], name: str) -> int:
    return sum(receipt.counts.get(name, 0) for receipt in receipts)
