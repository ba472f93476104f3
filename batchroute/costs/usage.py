"""Usage: rows, tokens, seconds and costs of the router and of each model, added up from receipts."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from batchroute.costs.prices import Price, usd
from batchroute.storage.receipts import Receipt

COLUMNS = ("name", "run_id", "route", "model", "rows", "failed", "input_tokens", "output_tokens", "cost")
"""The columns of cost.parquet that are not columns of the input."""


class RouterUsage(BaseModel):
    """What scoring took. Seconds are device time; `tokens` counts the prompts before truncation."""

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
    """What one shard took.

    Attributes:
        rows: of the shard; `generated` by the model, or `copies` of a generated answer to an identical prompt.
        answered: generated rows whose tokens count, failed rows with a useless answer included.
        input_tokens: by the model's tokenizer; the provider read `cached_tokens` of them from its cache.
        output_tokens: by the model's tokenizer; `reasoning_tokens` of them are reasoning.
        estimated: rows whose tokens batchroute counted because the endpoint did not report them.
        sample_input_tokens, sample_output_tokens: of extra sampled answers, which only tell how sure the model is.
        hits: rows with an answer of an earlier run, from the cache. They are none of `generated`, and cost nothing.
        hit_input_tokens, hit_output_tokens: of these answers, extra samples included; part of no other figure.
        hit_cost: what they would have cost by the run's price; None without a price by token, and without hits.
        router_tokens: of the generated rows' prompts by the router's tokenizer, a measure common to both shards.
        cost: of the rows, and of loading the model if its price is by time.
        price: where the price is from.
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
    sample_input_tokens: int = 0
    sample_output_tokens: int = 0
    router_tokens: int
    busy_seconds: float
    load_seconds: float
    cost: Decimal | None
    price: str = ""
    hits: int = 0
    hit_input_tokens: int = 0
    hit_output_tokens: int = 0
    hit_cost: Decimal | None = None

    @property
    def tokens_read(self) -> int:
        """Those of extra samples included, as the cost has them."""
        return self.input_tokens + self.sample_input_tokens

    @property
    def tokens_written(self) -> int:
        """Those of extra samples included, as the cost has them."""
        return self.output_tokens + self.sample_output_tokens


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
        *("sample_input_tokens", "sample_output_tokens"),
        *("hits", "hit_input_tokens", "hit_output_tokens"),
    )
    known = price is not None and price.by_token and _total(generated, "hits") > 0
    return ModelUsage(
        model=model,
        rows=sum(receipt.rows for receipt in generated),
        router_tokens=_total(shard, "tokens") - _total(generated, "hit_prompt_tokens"),
        busy_seconds=sum(receipt.seconds for receipt in generated),
        load_seconds=load,
        cost=cost,
        price=source,
        hit_cost=usd(_total(generated, "hit_cost_pico")) if known else None,
        **{name: _total(generated, name) for name in names},
    )


def _total(receipts: Collection[Receipt], name: str) -> int:
    return sum(receipt.counts.get(name, 0) for receipt in receipts)
