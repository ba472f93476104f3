"""Answers: responses and their costs, as the answers of a piece are written."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from batchroute.costs import prices
from batchroute.costs.prices import Price
from batchroute.generators.base import Response

SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field(
            "copy_of", pa.int64()
        ),  # not null: the row at that position has the answer; the columns below are null
        pa.field("response", pa.large_string()),
        pa.field("finish_reason", pa.string()),
        pa.field("input_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
        pa.field("cost", prices.COST),  # null: no price is set
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("cached_tokens", pa.int32()),
        pa.field("reasoning_tokens", pa.int32()),
        pa.field("estimated", pa.bool_()),
    ]
)
Answer = tuple[Response, int | None]
"""A response and its cost in pico-dollars, None where no price is set."""

# Field of Response → column of SCHEMA.
_OF_RESPONSES = {
    "text": "response",
    **{field.name: field.name for field in dataclasses.fields(Response) if field.name != "text"},
}
_COLUMNS_OF = operator.attrgetter(*_OF_RESPONSES)
_NO_RESPONSE = (None,) * len(_OF_RESPONSES)


def priced(price: Price | None, responses: Sequence[Response], seconds: float) -> list[Answer]:
    """Each response with its cost in pico-dollars: by its tokens, or by its share of the unit's `seconds`.

    The share follows the tokens read and written.
    """
    if price is None:
        return [(response, None) for response in responses]
    if price.by_token:
        return [(r, _by_token(price, r) if r.answered else 0) for r in responses]
    weights = [response.input_tokens + response.output_tokens for response in responses]
    return list(zip(responses, prices.split(price.of_seconds(seconds), weights), strict=True))


def _by_token(price: Price, response: Response) -> int:
    # An endpoint may report more cached tokens than input tokens.
    cached = min(response.cached_tokens, response.input_tokens)
    return price.of_tokens(response.input_tokens, response.output_tokens, cached)


def answer_of(row: dict[str, Any]) -> Answer:
    cost = row["cost"]
    response = Response(**{name: row[column] for name, column in _OF_RESPONSES.items()})
    return response, None if cost is None else prices.pico(cost)


def answers_table(positions: list[int], copy_of: pa.ChunkedArray, answers: Sequence[Answer | None]) -> pa.Table:
    rows = [_NO_RESPONSE if answer is None else _COLUMNS_OF(answer[0]) for answer in answers]
    columns = dict(zip(_OF_RESPONSES.values(), zip(*rows, strict=True), strict=True)) if rows else {}
    arrays = {name: pa.array(columns.get(name, []), SCHEMA.field(name).type) for name in _OF_RESPONSES.values()}
    arrays["cost"] = prices.usd_column([None if answer is None else answer[1] for answer in answers])
    arrays |= {"position": pa.array(positions, pa.int64()), "copy_of": copy_of}
    return pa.table([arrays[name] for name in SCHEMA.names], schema=SCHEMA)


def counts(answers: Sequence[Answer | None]) -> dict[str, int]:
    """The counts of a receipt. An entry that is None is a copy."""
    responses = [answer[0] for answer in answers if answer is not None]
    answered = [response for response in responses if response.answered]
    return {
        "generated": len(responses),
        "copies": len(answers) - len(responses),
        "failed": sum(response.error_type is not None for response in responses),
        "answered": len(answered),
        "cut": sum(response.finish_reason == "length" for response in answered),
        "input_tokens": sum(response.input_tokens for response in answered),
        "cached_tokens": sum(response.cached_tokens for response in answered),
        "output_tokens": sum(response.output_tokens for response in answered),
        "reasoning_tokens": sum(response.reasoning_tokens for response in answered),
        "estimated": sum(response.estimated for response in answered),
        "cost_pico": sum(answer[1] for answer in answers if answer is not None and answer[1] is not None),
    }
