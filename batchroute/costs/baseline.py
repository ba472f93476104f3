"""The baseline: what sending every row to the large model would have cost."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from batchroute.costs.prices import Price, usd
from batchroute.costs.usage import ModelUsage


class Baseline(BaseModel):
    """The cost of sending every row to the large model, None if unknown, and the assumption behind it in words."""

    model_config = ConfigDict(frozen=True)

    cost: Decimal | None
    assumption: str


def baseline_of(
    small: ModelUsage, large: ModelUsage, again: list[ModelUsage], drawn: list[ModelUsage], price: Price | None
) -> Baseline:
    """Args:
    again: of the large model for rows of the small shard.
    drawn: of the large model for the rows of tonight's calibration.
    """
    if price is None:
        return Baseline(cost=None, assumption=f"not known: models.large.price is missing{_why(large.price)}")
    on_large = [large, *again, *drawn]
    if small.hits or any(usage.hits for usage in on_large):
        found = _of_asked(_asked_and_kept(small, again), large, [], [*again, *drawn], price)
        # No model would have been paid for them.
        return found.model_copy(update={"assumption": f"{found.assumption}; answers from the cache are left out"})
    return _of_asked(small, large, again, drawn, price)


def _asked_and_kept(small: ModelUsage, again: list[ModelUsage]) -> ModelUsage:
    """The part of the small model's usage that is of rows that did not go on, where the cache has some answers of both:
    as many as of the rows that it has none of.
    """
    rows = small.generated + small.hits
    kept = max(0, rows - sum(usage.generated + usage.hits for usage in again)) / max(1, rows)
    names = ("generated", "router_tokens", "input_tokens", "output_tokens")
    return small.model_copy(update={name: round(getattr(small, name) * kept) for name in names})


def _of_asked(
    small: ModelUsage, large: ModelUsage, again: list[ModelUsage], drawn: list[ModelUsage], price: Price
) -> Baseline:
    on_large = [large, *again, *drawn]
    spent = sum((usage.cost for usage in on_large if usage.cost is not None), Decimal(0))
    # `spent` holds the cost of rows that went on to the large model already.
    rest = max(0, small.generated - sum(usage.generated for usage in again))
    tokens = max(0, small.router_tokens - sum(usage.router_tokens for usage in again))
    if rest == 0:
        return Baseline(cost=spent, assumption="every row was sent to the large model")
    answered = sum(usage.answered for usage in on_large)
    if price.by_token:
        return _baseline_by_token(small, on_large, answered, rest, tokens, spent, price)
    if answered == 0:
        return Baseline(cost=None, assumption="not known: no row ran on the large model, so its speed is unknown")
    seconds = sum(usage.busy_seconds for usage in on_large) / answered * rest
    return Baseline(
        cost=spent + usd(price.of_seconds(seconds)),
        assumption="the large model would have spent as long on a row of the small shard as on its own on average",
    )


def _baseline_by_token(
    small: ModelUsage, on_large: list[ModelUsage], answered: int, rest: int, tokens: int, spent: Decimal, price: Price
) -> Baseline:
    """Args:
    on_large: usages of the large model, `answered` rows in all.
    rest: rows that did not run on the large model, with `tokens` prompt tokens by the router's tokenizer.
    """
    router_tokens = sum(usage.router_tokens for usage in on_large)
    if answered == 0 or router_tokens == 0:
        added = price.of_tokens(small.input_tokens, small.output_tokens)
        assumption = "the large model would have read and written as many tokens as the small model did"
    else:
        read, cached = (
            round(tokens * sum(getattr(usage, name) for usage in on_large) / router_tokens)
            for name in ("input_tokens", "cached_tokens")
        )
        a_row = sum(usage.output_tokens for usage in on_large) / answered
        added = price.of_tokens(read, round(rest * a_row), min(cached, read))
        assumption = (
            "on the small shard the large model would have read as many tokens per prompt token, and written as many "
            f"tokens per row ({a_row:.1f}), as on its own shard"
        )
    return Baseline(cost=spent + usd(added), assumption=assumption)


def _why(source: str) -> str:
    return f" ({source})" if source else ""
