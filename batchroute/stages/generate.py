"""Generation: each model answers its shard, piece by piece, one model in memory at a time."""

from __future__ import annotations

import dataclasses
import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchroute import generators
from batchroute.costs import prices
from batchroute.costs.prices import Price
from batchroute.errors import StoppedError
from batchroute.generators.base import Generator, Response, row_seed
from batchroute.spec import JobModel, Side
from batchroute.stages.context import Context
from batchroute.stages.partition import shard_stage
from batchroute.storage.workdir import Facts, Receipt, Stage

SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("copy_of", pa.int64()),  # set: all that follows is null, and the row at this position has it
        pa.field("response", pa.large_string()),
        pa.field("finish_reason", pa.string()),
        pa.field("input_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
        pa.field("cost", prices.COST),  # null: no price is set
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        pa.field("attempts", pa.int32()),
    ]
)
Answer = tuple[Response, int | None]
"""A response and its cost in pico-dollars, None where no price is set."""

# By the names that a response and the table have for the same.
_OF_RESPONSES = {
    "text": "response",
    **{field.name: field.name for field in dataclasses.fields(Response) if field.name != "text"},
}
_COLUMNS_OF = operator.attrgetter(*_OF_RESPONSES)
_NO_RESPONSE = (None,) * len(_OF_RESPONSES)

# So many rows one after another with one and the same error of the model: the rest would only burn money.
_HOPELESS = 100


def generate(context: Context, side: Side) -> None:
    """Generate all pieces of one shard that have no receipt yet."""
    shard, stage = shard_stage(context.work, side), context.work.stage(side)
    done = stage.receipts()
    pending = [piece for unit, piece in shard.receipts().items() if unit not in done]
    if not pending:
        return
    model = context.job.models.of(side)
    context.engine.progress.note("load", f"loading the {side} model {model.model}")
    generator = generators.load(model, lambda: context.engine.device)
    worker = _Worker(context, side, model, shard, stage, generator, generator.load_seconds)
    try:
        context.engine.carry_out(side, pending, list(done.values()), worker.do)
    finally:
        generator.close()


@dataclass
class _Worker:
    context: Context
    side: Side
    model: JobModel
    shard: Stage
    stage: Stage
    generator: Generator
    load_seconds: float

    def do(self, piece: Receipt) -> Receipt:
        started = time.perf_counter()
        rows = self.shard.read(piece.unit)
        positions, copies = rows["position"].to_pylist(), rows["copy_of"].to_pylist()
        before = self._before(piece.unit)
        answers: list[Answer | None] = [before.get(position) for position in positions]
        todo = [i for i, answer in enumerate(answers) if copies[i] is None and not _ok(answer)]
        responses = self._ask(piece.unit, rows.take(pa.array(todo, pa.int64())))
        seconds = time.perf_counter() - started
        for i, (response, cost) in zip(todo, priced(self.model.price, responses, seconds), strict=True):
            earlier = answers[i]
            answers[i] = response if earlier is None else _after(earlier[0], response), cost
        table = _table(positions, rows["copy_of"], answers)
        facts = Facts(
            run_id=piece.run_id,
            unit=piece.unit,
            rows=piece.rows,
            first=piece.first,
            last=piece.last,
            seconds=seconds,
            load_seconds=self.load_seconds,
            counts=counts(answers),
        )
        self.load_seconds = 0.0
        return self.stage.commit(facts, SCHEMA, table.sort_by("position").to_batches())

    def _ask(self, unit: str, rows: pa.Table) -> list[Response]:
        """Responses to all rows, asked for some at a time; since pieces are ordered by length, so are the batches."""
        responses: list[Response] = []
        at_a_time = self.generator.rows_at_a_time
        for start in range(0, rows.num_rows, at_a_time):
            some = rows.slice(start, at_a_time)
            seeds = self._seeds(some["position"].to_pylist())
            responses += self.generator.generate(some["prompt"].to_pylist(), seeds)
            self.context.engine.progress.pulse(self.side, unit, len(responses), rows.num_rows)
        stop_if_hopeless(self.model.model, responses)
        return responses

    def _seeds(self, positions: list[int]) -> list[int]:
        generation = self.model.generation
        if generation.greedy:
            return [generation.seed] * len(positions)
        return [row_seed(generation.seed, position) for position in positions]

    def _before(self, unit: str) -> dict[int, Answer]:
        """The answers of an earlier attempt, by position, when this is a retry of the failed ones among them."""
        table = self.stage.kept(unit)
        rows = [] if table is None else table.to_pylist()
        return {row["position"]: _answer(row) for row in rows if row["copy_of"] is None}


def priced(price: Price | None, responses: Sequence[Response], seconds: float) -> list[Answer]:
    """Each response with its cost in pico-dollars: by its tokens, or its share of the unit's time by tokens."""
    if price is None:
        return [(response, None) for response in responses]
    if price.by_token:
        read, written = price.of_tokens(1, 0), price.of_tokens(0, 1)
        return [
            (r, read * r.input_tokens + written * r.output_tokens if r.error_type is None else 0) for r in responses
        ]
    weights = [response.input_tokens + response.output_tokens for response in responses]
    return list(zip(responses, prices.split(price.of_seconds(seconds), weights), strict=True))


def stop_if_hopeless(model: str, responses: Sequence[Response]) -> None:
    """Raises:
    StoppedError: so many rows failed with one and the same error that the rest would only burn money.
    """
    errors = [response.error if response.error_type == "model_error" else None for response in responses]
    if len(errors) >= _HOPELESS and errors[0] is not None and set(errors) == {errors[0]}:
        raise StoppedError(
            f"all {len(errors)} rows of a piece failed alike on the model '{model}': {errors[0]}; mend it and run again"
        )


def _ok(answer: Answer | None) -> bool:
    return answer is not None and answer[0].error_type is None


def _after(earlier: Response, response: Response) -> Response:
    return dataclasses.replace(response, attempts=earlier.attempts + response.attempts)


def _answer(row: dict[str, Any]) -> Answer:
    cost = row["cost"]
    response = Response(**{name: row[column] for name, column in _OF_RESPONSES.items()})
    return response, None if cost is None else int(cost.scaleb(prices.COST_SCALE))


def _table(positions: list[int], copy_of: pa.ChunkedArray, answers: Sequence[Answer | None]) -> pa.Table:
    rows = [_NO_RESPONSE if answer is None else _COLUMNS_OF(answer[0]) for answer in answers]
    columns = dict(zip(_OF_RESPONSES.values(), zip(*rows, strict=True), strict=True)) if rows else {}
    arrays = {name: pa.array(columns.get(name, []), SCHEMA.field(name).type) for name in _OF_RESPONSES.values()}
    arrays["cost"] = prices.usd_column([None if answer is None else answer[1] for answer in answers])
    arrays |= {"position": pa.array(positions, pa.int64()), "copy_of": copy_of}
    return pa.table([arrays[name] for name in SCHEMA.names], schema=SCHEMA)


def counts(answers: Sequence[Answer | None]) -> dict[str, int]:
    """What a receipt counts; an entry that is None is a copy."""
    responses = [answer[0] for answer in answers if answer is not None]
    good = [response for response in responses if response.error_type is None]
    return {
        "generated": len(responses),
        "copies": len(answers) - len(responses),
        "failed": len(responses) - len(good),
        "cut": sum(response.finish_reason == "length" for response in good),
        "input_tokens": sum(response.input_tokens for response in good),
        "output_tokens": sum(response.output_tokens for response in good),
        "cost_pico": sum(answer[1] for answer in answers if answer is not None and answer[1] is not None),
    }
