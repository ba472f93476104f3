"""The pieces of a shard: which of their rows a model still has to answer, and the commit of the answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from batchroute.config.job import JobModel
from batchroute.generators.base import Response, row_seed
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.answers import Answer, answer_of, answers_table, counts, model_of, priced, schema_of
from batchroute.pipeline.shards.writer import Shard, shard_stage, side_of
from batchroute.storage.receipts import Facts, Receipt


@dataclass(frozen=True)
class Piece:
    """One piece with the answers that it has so far.

    Attributes:
        receipt: of the piece in the shard, without answers.
        positions: of all rows, shortest prompt first.
        answers: one for each of `positions`; None where a model still has to answer, and for copies.
        todo: the rows that a model still has to answer: position and prompt, in the order of the piece.
        indices: where the rows of `todo` stand in `positions`.
    """

    receipt: Receipt
    positions: list[int]
    copy_of: pa.ChunkedArray
    answers: list[Answer | None]
    indices: list[int]
    todo: pa.Table

    @property
    def unit(self) -> str:
        return self.receipt.unit


class Pieces:
    """All pieces of one shard."""

    def __init__(self, context: Context, shard: Shard) -> None:
        self.context, self.shard = context, shard
        self.side = side_of(shard)
        self.model: JobModel = model_of(context.job, self.side)
        self._prompts, self._stage = shard_stage(context.work, shard), context.work.stage(shard)
        self._price = context.snapshot.price(self.side)

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
        positions, copies = rows["position"].to_pylist(), rows["copy_of"].to_pylist()
        kept = self._kept(receipt.unit)
        answers: list[Answer | None] = [kept.get(position) for position in positions]
        todo = [i for i, answer in enumerate(answers) if copies[i] is None and not _ok(answer)]
        to_answer = rows.select(["position", "prompt"]).take(pa.array(todo, pa.int64()))
        return Piece(receipt, positions, rows["copy_of"], answers, todo, to_answer)

    def seeds(self, positions: Sequence[int]) -> list[int]:
        generation = self.model.generation
        if generation.greedy:
            return [generation.seed] * len(positions)
        return [row_seed(generation.seed, position) for position in positions]

    def commit(self, piece: Piece, responses: Sequence[Response], seconds: float, load_seconds: float) -> Receipt:
        """Put all answers of the piece, old and new, and its receipt.

        Args:
            responses: one for each row of `piece.todo`.
        """
        answers = list(piece.answers)
        for i, answer in zip(piece.indices, priced(self._price, responses, seconds), strict=True):
            answers[i] = _with_earlier(answers[i], answer)
        facts = Facts(
            run_id=piece.receipt.run_id,
            unit=piece.unit,
            rows=piece.receipt.rows,
            first=piece.receipt.first,
            last=piece.receipt.last,
            seconds=seconds,
            load_seconds=load_seconds,
            counts=counts(answers),
        )
        schema = schema_of(self.model)
        table = answers_table(piece.positions, piece.copy_of, answers, schema)
        return self._stage.commit(facts, schema, table.sort_by("position").to_batches())

    def _kept(self, unit: str) -> dict[int, Answer]:
        """The answers, by position, that `--retry-failed` put aside when it reopened the unit."""
        table = self._stage.kept(unit)
        rows = [] if table is None else table.to_pylist()
        return {row["position"]: answer_of(row) for row in rows if row["copy_of"] is None}


def _ok(answer: Answer | None) -> bool:
    return answer is not None and answer[0].error_type is None


def _with_earlier(earlier: Answer | None, answer: Answer) -> Answer:
    """The answer, with the attempts and the cost of the earlier answer that it replaces added."""
    if earlier is None:
        return answer
    (old, spent), (response, cost) = earlier, answer
    response = dataclasses.replace(response, attempts=old.attempts + response.attempts)
    return response, None if cost is None else cost + (spent or 0)
