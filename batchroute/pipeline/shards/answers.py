"""Answers: responses and their costs, as the answers of a piece are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchroute.config.job import Job, JobModel
from batchroute.costs import prices
from batchroute.costs.columns import COST, picos_of, usd_column
from batchroute.costs.prices import Price
from batchroute.fields import Side
from batchroute.generators.base import Response
from batchroute.generators.settings import Confidence

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
        pa.field("cost", COST),  # null: no price is set
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("cached_tokens", pa.int32()),
        pa.field("reasoning_tokens", pa.int32()),
        pa.field("estimated", pa.bool_()),
    ]
)
SIGNALS = pa.schema(
    [
        pa.field("logprob", pa.float32()),  # null: not known
        pa.field("logprob_low", pa.float32()),
        pa.field("agreement", pa.float32()),
        pa.field("sample_input_tokens", pa.int32()),
        pa.field("sample_output_tokens", pa.int32()),
    ]
)
"""Further columns of the answers of a model that is asked for signals; units of earlier versions lack them."""

TOOL_CALLS = pa.field("tool_calls", pa.large_string())
"""A further column of the answers of a model that is given tools."""

REASONING = pa.field("reasoning", pa.large_string())
"""A further column of the answers of a model whose thoughts are kept."""

FROM_CACHE = pa.field("from_cache", pa.bool_())
"""A further column of the answers of a job with a cache."""

Answer = tuple[Response, int | None]
"""A response and its cost in pico-dollars, None where no price is set."""

# Field of Response → column of SCHEMA.
_OF_RESPONSES = {name: "response" if name == "text" else name for name in Response._fields}
_NO_RESPONSE = (None,) * len(_OF_RESPONSES)
_SAMPLE_TOKENS = ("sample_input_tokens", "sample_output_tokens")
_NO_SAMPLES = dict.fromkeys(_SAMPLE_TOKENS, 0)
_SUMMED = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "estimated")


def model_of(job: Job, side: Side) -> JobModel:
    """One of the job's models, as it is asked: the small one gives signals where the policy decides after its answers.

    The identity of a run takes the model as the job file has it.
    """
    model = job.models.of(side)
    after = side == "small" and job.policy.decide in ("after", "auto")
    return with_confidence(model) if after else model


def with_confidence(model: JobModel) -> JobModel:
    """The model, asked for log-probabilities unless its settings say what to ask for."""
    return model if model.confidence is not None else model.model_copy(update={"confidence": Confidence()})


def schema_of(model: JobModel, cache: bool = False) -> pa.Schema:
    """The columns of the model's answers.

    Args:
        cache: whether the job has one.
    """
    signals = [] if model.confidence is None else [*SIGNALS]
    return pa.schema([*SCHEMA, *signals, *of_texts([model]), *([FROM_CACHE] if cache else [])])


def of_texts(models: Sequence[JobModel]) -> list[pa.Field]:
    """The columns of what models say besides their answers, where one of them is asked for it."""
    tools = [TOOL_CALLS] if any(model.gives_tools for model in models) else []
    return [*tools, *([REASONING] if any(model.reasoning == "keep" for model in models) else [])]


def priced(price: Price | None, responses: Sequence[Response], seconds: float) -> list[Answer]:
    """Each response with its cost in pico-dollars: by its tokens, or by its share of the unit's `seconds`.

    The share follows the tokens read and written. Those of extra samples count too.
    """
    if price is None:
        return [(response, None) for response in responses]
    if price.by_token:
        return [(r, _by_token(price, r) if r.answered else 0) for r in responses]
    weights = [*(r.input_tokens + r.output_tokens + r.sample_input_tokens + r.sample_output_tokens for r in responses)]
    return list(zip(responses, prices.split(price.of_seconds(seconds), weights), strict=True))


def _by_token(price: Price, response: Response) -> int:
    # An endpoint may report more cached tokens than input tokens.
    cached = min(response.cached_tokens, response.input_tokens)
    read, written = response.sample_input_tokens, response.sample_output_tokens
    return price.of_tokens(response.input_tokens + read, response.output_tokens + written, cached)


def answer_of(row: dict[str, Any]) -> Answer:
    cost = row["cost"]
    response = Response(**{name: row[column] for name, column in _OF_RESPONSES.items() if column in row})
    return response, None if cost is None else prices.pico(cost)


def answers_table(
    positions: list[int], copy_of: pa.ChunkedArray, answers: Sequence[Answer | None], schema: pa.Schema = SCHEMA
) -> pa.Table:
    """Args:
    schema: as `schema_of` gives it.
    """
    rows = [_NO_RESPONSE if answer is None else answer[0] for answer in answers]
    columns = zip(_OF_RESPONSES.values(), zip(*rows, strict=True) if rows else [()] * len(_OF_RESPONSES), strict=True)
    arrays = {name: pa.array(column, schema.field(name).type) for name, column in columns if name in schema.names}
    arrays["cost"] = usd_column([None if answer is None else answer[1] for answer in answers])
    arrays |= {"position": pa.array(positions, pa.int64()), "copy_of": copy_of}
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def answers_of_columns(
    positions: pa.ChunkedArray, responses: pa.Table, price: Price | None, schema: pa.Schema = SCHEMA
) -> tuple[pa.Table, dict[str, int]]:
    """The table and the counts that `answers_table` and `counts` give for the same responses.

    Args:
        responses: as of `ColumnGenerator.answer_columns`.
        price: by token, or None.
        schema: as `schema_of` gives it, of texts and signals alone.
    """
    # Its import takes longer than all else that checks of a job need of Arrow.
    import pyarrow.compute as pc

    rows = responses.num_rows
    tokens = {name: responses[name].to_numpy().astype(np.int64) for name in ("input_tokens", "output_tokens")}
    total = {name: int(column.sum()) for name, column in tokens.items()}
    costs, cost_of_all = None, 0
    if price is not None:
        cost_of_all = price.of_tokens(*total.values())
        # Beyond 64 bits Python's own numbers say so.
        read, written = (column.astype(np.int64 if cost_of_all < 1 << 63 else object) for column in tokens.values())
        costs = read * price.of_tokens(1, 0) + written * price.of_tokens(0, 1)
    constant = {"attempts": 1, "cached_tokens": 0, "reasoning_tokens": 0, "estimated": False, **_NO_SAMPLES}
    told = [name for name in SIGNALS.names if name in responses.column_names]
    arrays = {
        "position": positions,
        "response": responses["text"],
        "finish_reason": responses["finish_reason"],
        **tokens,
        "cost": usd_column([None] * rows if costs is None else costs),
        **{name: responses[name] for name in told},
        **{
            name: pa.repeat(pa.scalar(value, schema.field(name).type), rows)
            for name, value in constant.items()
            if name in schema.names
        },
    }
    columns = [
        pa.nulls(rows, field.type) if field.name not in arrays else _of_type(arrays[field.name], field.type)
        for field in schema
    ]
    counted = {
        "generated": rows,
        "copies": 0,
        "failed": 0,
        "answered": rows,
        "cut": pc.sum(pc.equal(responses["finish_reason"], "length")).as_py() or 0,
        **{name: total.get(name, 0) for name in _SUMMED},
        "cost_pico": cost_of_all,
    }
    return pa.table(columns, schema=schema), counted


def _of_type(column: Any, kind: pa.DataType) -> Any:
    return (
        pa.array(column, kind)
        if isinstance(column, np.ndarray)
        else column
        if column.type == kind
        else column.cast(kind)
    )


def hits_of(table: pa.Table, price: Price | None) -> dict[int, Answer]:
    """The answers that a cache has, by position: no model was asked, and nothing is paid.

    Args:
        table: rows as `recall` puts them.
    """
    fields = {name: table[column].to_pylist() for name, column in _OF_RESPONSES.items() if column in table.column_names}
    rows = [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
    responses = [Response(**{**row, "attempts": 0, "from_cache": True}) for row in rows]
    cost = None if price is None else 0
    return {position: (one, cost) for position, one in zip(table["position"].to_pylist(), responses, strict=True)}


def full_costs(answers: pa.Table, price: Price | None) -> NDArray[np.float64]:
    """The cost of each row's answer in pico-dollars, as if none were from a cache; 0 without a price.

    What a hit would have cost by time is not known: the mean of the other rows stands for it.
    """
    costs = picos_of(answers["cost"]).astype(np.float64)
    if price is None or FROM_CACHE.name not in answers.column_names:
        return costs
    hit = answers[FROM_CACHE.name].fill_null(False).to_numpy()
    if price.by_token:
        rows = answers.filter(answers[FROM_CACHE.name].fill_null(False)).to_pylist()
        costs[hit] = [_by_token(price, answer_of(row)[0]) for row in rows]
    elif hit.any() and not hit.all():
        costs[hit] = costs[~hit].mean()
    return costs


def counts(answers: Sequence[Answer | None], price: Price | None = None) -> dict[str, int]:
    """The counts of a receipt. An entry that is None is a copy. Hits of the cache are counted by themselves.

    Args:
        price: tells what the hits would have cost.
    """
    every = [answer[0] for answer in answers if answer is not None]
    hits = [response for response in every if response.from_cache]
    responses = [response for response in every if not response.from_cache] if hits else every
    failed = [response for response in responses if response.error_type is not None]
    answered = [response for response in responses if response.answered] if failed else responses
    # A column at a time: a pass over the responses for each count would take longer than writing them.
    columns = zip(*answered, strict=True) if answered else [()] * len(_OF_RESPONSES)
    of = dict(zip(Response._fields, columns, strict=True))
    sums = {name: sum(of[name]) for name in (*_SUMMED, *_SAMPLE_TOKENS)}
    return {
        "generated": len(responses),
        "copies": len(answers) - len(every),
        "failed": len(failed),
        "answered": len(answered),
        "cut": of["finish_reason"].count("length"),
        **{name: sums[name] for name in _SUMMED},
        "cost_pico": sum(answer[1] for answer in answers if answer is not None and answer[1] is not None),
        **{name: sums[name] for name in _SAMPLE_TOKENS if sums[name]},
        **(_of_hits(hits, price) if hits else {}),
    }


def _of_hits(hits: Sequence[Response], price: Price | None) -> dict[str, int]:
    return {
        "hits": len(hits),
        "hit_input_tokens": sum(hit.input_tokens + hit.sample_input_tokens for hit in hits),
        "hit_output_tokens": sum(hit.output_tokens + hit.sample_output_tokens for hit in hits),
        "hit_cost_pico": sum(_by_token(price, hit) for hit in hits) if price is not None and price.by_token else 0,
    }
