"""The pieces of a shard: which of their rows a model still has to answer, and the commit of the answers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from batchroute.config.job import JobModel
from batchroute.generators.base import Response, row_seed
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.answers import (
    SCHEMA,
    SIGNALS,
    Answer,
    answer_of,
    answers_of_columns,
    answers_table,
    counts,
    model_of,
    priced,
    schema_of,
)
from batchroute.pipeline.shards.hits import Hits
from batchroute.pipeline.shards.names import Shard, shard_stage, side_of
from batchroute.prompt import Prompt, as_text
from batchroute.storage.receipts import Facts, Receipt
from batchroute.tables.prompts import of_shard

# Fewer rows are asked at once anyway, before the first of them could tell anything.
_FEW_ROWS = 20


@dataclass(frozen=True)
class Piece:
    """One piece with the answers that it has so far.

    Attributes:
        receipt: of the piece in the shard, without answers.
        rows: of the shard, shortest prompt first.
        answers: one for each of `rows`; None where a model still has to answer, and for copies.
        todo: the rows that a model still has to answer: position and prompt, in the order of the piece.
        indices: where the rows of `todo` stand in `rows`.
        hit_tokens: of the prompts whose answer is from the cache, by the router's tokenizer.
    """

    receipt: Receipt
    rows: pa.Table
    answers: list[Answer | None]
    indices: Sequence[int]
    todo: pa.Table
    hit_tokens: int = 0

    @property
    def unit(self) -> str:
        return self.receipt.unit

    @functools.cached_property
    def positions(self) -> list[int]:
        positions: list[int] = self.rows["position"].to_pylist()
        return positions


class Pieces:
    """All pieces of one shard."""

    def __init__(self, context: Context, shard: Shard) -> None:
        self.context, self.shard = context, shard
        self.side = side_of(shard)
        self.model: JobModel = model_of(context.job, self.side)
        self._prompts, self._stage = shard_stage(context.work, shard), context.work.stage(shard)
        self._price = context.snapshot.price(self.side)
        # Listed once: to ask for each unit's file costs a bucket a request a unit.
        self._begun, self._kept_units = self._stage.begun_units(), self._stage.kept_units()
        self._cache = context.job.cache is not None
        self._schema = schema_of(self.model, self._cache)
        self._hits = Hits(context.work, shard, self._price)

    def done(self) -> list[Receipt]:
        return list(self._stage.receipts().values())

    def assigned(self) -> list[Receipt]:
        """The receipts of all pieces as they were written into the shard, without answers."""
        return list(self._prompts.receipts().values())

    def pending(self) -> list[Receipt]:
        """The receipts of the pieces that have no answers yet."""
        done = self._stage.receipts()
        return [piece for piece in self.assigned() if piece.unit not in done]

    def read(self, receipt: Receipt) -> Piece:
        rows = self._prompts.read(receipt.unit)
        kept, begun = self._kept(receipt.unit), self._answered_before_a_stop(receipt.unit)
        if self._cache:
            kept = {**self._hits.of(receipt.unit), **kept}
        to_answer = rows.select(["position", "prompt"])
        if not (kept or begun or rows["copy_of"].null_count < rows.num_rows):
            return Piece(receipt, rows, [None] * rows.num_rows, range(rows.num_rows), to_answer)
        positions, copies = rows["position"].to_pylist(), rows["copy_of"].to_pylist()
        answers = [begun.get(position) or kept.get(position) for position in positions]
        todo = [
            i for i, position in enumerate(positions)
            if copies[i] is None and position not in begun and not _ok(answers[i])
        ]  # fmt: skip
        to_answer = to_answer.take(pa.array(todo, pa.int64()))
        hit_tokens = _hit_tokens(rows["tokens"], answers) if self._cache else 0
        return Piece(receipt, rows, answers, todo, to_answer, hit_tokens)

    def extremes(self) -> tuple[Prompt, Prompt] | None:
        """The longest and the shortest prompt that are still to be asked; None if there are too few rows to care."""
        pending = self.pending()
        if sum(piece.rows - piece.counts.get("copies", 0) for piece in pending) < _FEW_ROWS:
            return None
        kind = self.context.snapshot.prompt_kind
        ends = []
        for receipt in {
            max(pending, key=_longest).unit: max(pending, key=_longest),
            pending[0].unit: pending[0],
        }.values():
            # In a piece, rows stand by their length.
            todo = self.read(receipt).todo["prompt"]
            ends += [of_shard(todo.slice(at, 1), kind)[0] for at in ((0, len(todo) - 1) if len(todo) else ())]
        ends.sort(key=lambda prompt: len(as_text(prompt)))
        return (ends[-1], ends[0]) if ends else None

    def seeds(self, positions: Sequence[int]) -> list[int]:
        generation = self.model.generation
        if generation.greedy:
            return [generation.seed] * len(positions)
        return [row_seed(generation.seed, position) for position in positions]

    def by_columns(self, piece: Piece) -> bool:
        """Whether the answers may come as columns: to all rows of the piece, with text, tokens and signals alone."""
        return (
            self.context.snapshot.prompt_kind == "text"
            and self._schema.names in (SCHEMA.names, [*SCHEMA.names, *SIGNALS.names])
            and (self._price is None or self._price.by_token)
            and piece.todo.num_rows == piece.receipt.rows
            and not any(piece.answers)
        )

    def commit_columns(self, piece: Piece, responses: pa.Table, seconds: float, load_seconds: float) -> Receipt:
        """As `commit`, for a piece of `by_columns`.

        Args:
            responses: as of `ColumnGenerator.answer_columns`.
        """
        table, counted = answers_of_columns(piece.todo["position"], responses, self._price, self._schema)
        return self._put(piece, table, counted, seconds, load_seconds)

    def commit(self, piece: Piece, responses: Sequence[Response], seconds: float, load_seconds: float) -> Receipt:
        """Put all answers of the piece, old and new, and its receipt.

        Args:
            responses: one for each row of `piece.todo`.
        """
        answers = list(piece.answers)
        for i, answer in zip(piece.indices, priced(self._price, responses, seconds), strict=True):
            answers[i] = _with_earlier(answers[i], answer)
        counted = counts(answers, self._price)
        if piece.hit_tokens:
            counted |= {"hit_prompt_tokens": piece.hit_tokens}
        table = answers_table(piece.positions, piece.rows["copy_of"], answers, self._schema)
        return self._put(piece, table, counted, seconds, load_seconds)

    def _put(
        self, piece: Piece, table: pa.Table, counted: dict[str, int], seconds: float, load_seconds: float
    ) -> Receipt:
        facts = Facts(
            run_id=piece.receipt.run_id,
            unit=piece.unit,
            rows=piece.receipt.rows,
            first=piece.receipt.first,
            last=piece.receipt.last,
            seconds=seconds,
            load_seconds=load_seconds,
            counts=counted,
        )
        receipt = self._stage.commit(facts, self._schema, table.sort_by("position").to_batches())
        if piece.unit in self._begun:
            self._stage.drop_begun(piece.unit)
        return receipt

    def keep(self, piece: Piece, responses: Sequence[Response | None], seconds: float) -> None:
        """Put the answers that the piece has so far, before the run stops: the next attempt asks for the others alone.

        Args:
            responses: of the first rows of `piece.todo`. Those without an answer are asked again, failed or not.
            seconds: that the answers took, the model's loading included.
        """
        answered = [(i, one) for i, one in zip(piece.indices, responses, strict=False) if one and one.answered]
        if not answered:
            return
        answers = priced(self._price, [response for _, response in answered], seconds)
        whole = [_with_earlier(piece.answers[i], answer) for (i, _), answer in zip(answered, answers, strict=True)]
        positions = [piece.positions[i] for i, _ in answered]
        table = answers_table(positions, pa.nulls(len(positions), pa.int64()), whole, self._schema)
        self._stage.put_begun(piece.unit, table)

    def _answered_before_a_stop(self, unit: str) -> dict[int, Answer]:
        """The answers, by position, that `keep` has put."""
        rows = self._stage.begun_rows(unit) if unit in self._begun else []
        return {row["position"]: answer_of(row) for row in rows}

    def _kept(self, unit: str) -> dict[int, Answer]:
        """The answers, by position, that `--retry-failed` put aside when it reopened the unit."""
        table = self._stage.kept(unit) if unit in self._kept_units else None
        rows = [] if table is None else table.to_pylist()
        return {row["position"]: answer_of(row) for row in rows if row["copy_of"] is None}


def _longest(piece: Receipt) -> float:
    """The tokens of the longest prompt of a piece; pieces of an earlier version tell the mean only."""
    return piece.counts.get("longest", piece.counts["tokens"] / max(1, piece.rows))


def _hit_tokens(tokens: pa.ChunkedArray, answers: Sequence[Answer | None]) -> int:
    hits = [answer is not None and answer[0].from_cache for answer in answers]
    return sum(count or 0 for count, hit in zip(tokens.to_pylist(), hits, strict=True) if hit)


def _ok(answer: Answer | None) -> bool:
    return answer is not None and answer[0].error_type is None


def _with_earlier(earlier: Answer | None, answer: Answer) -> Answer:
    """The answer, with the attempts and the cost of the earlier answer that it replaces added."""
    if earlier is None:
        return answer
    (old, spent), (response, cost) = earlier, answer
    response = response._replace(attempts=old.attempts + response.attempts)
    return response, None if cost is None else cost + (spent or 0)
