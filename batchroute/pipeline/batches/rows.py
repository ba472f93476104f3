"""The rows of a shard that provider batches answer: which are still to be submitted, and which have a final answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from batchroute.errors import StoppedError
from batchroute.generators.base import Response
from batchroute.generators.batch.api import BatchApi
from batchroute.generators.validation import Check, checked
from batchroute.pipeline.batches.ledger import Intent, Ledger, Tries
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.limits import JobLimits
from batchroute.pipeline.shards.names import SHARDS, shard_stage
from batchroute.pipeline.shards.pieces import Piece, Pieces
from batchroute.prompt import Prompt
from batchroute.redaction import without_quotes
from batchroute.storage.receipts import Receipt
from batchroute.tables.prompts import of_shard


class Rows:
    """The rows of a shard, by unit and position.

    Attributes:
        over_limit: why the last call of `lines` left out rows; None when it left out none.
    """

    def __init__(self, context: Context, pieces: Pieces) -> None:
        self._context, self._pieces = context, pieces
        # Read before the ledger: its open batches belong to these units, also when another process commits them.
        self._pending: dict[str, Receipt] = {receipt.unit: receipt for receipt in pieces.pending()}
        self.ledger = Ledger(context.work, pieces.shard)
        self.over_limit: StoppedError | None = None
        form = pieces.model.response_format
        self._check = None if form is None else Check.of_format(form)
        self._unit, self._prompts = "", dict[int, Prompt]()

    def lines(self, api: BatchApi, at_first: Callable[[], None]) -> Iterator[tuple[tuple[str, int], bytes]]:
        """The requests for all rows that are in no batch and have no final answer, by unit and position.

        Ends at the first piece that the limits of the job do not allow. They may allow it once the open batches have
        ended, and their real costs are known.

        Args:
            at_first: called before the first of them is made.
        """
        limits, self.over_limit = limits_of(self._context), None
        for receipt in self._pieces.pending():
            piece = self._pieces.read(receipt)
            positions, prompts = piece.todo["position"].to_pylist(), self._prompts_of(piece)
            tries = self._tries(piece)
            asked = [i for i, position in enumerate(positions) if self._is_open(tries[position])]
            if not asked:
                continue
            try:
                limits.before_all(self._pieces.shard, receipt, len(positions))
            except StoppedError as error:
                self.over_limit = error
                return
            at_first()
            at_first = _nothing
            seeds = self._pieces.seeds(positions)
            for i in asked:
                yield (piece.unit, positions[i]), api.line(custom_id(positions[i]), prompts[i], seeds[i])

    def unquoted(self, intent: Intent, words: str) -> str:
        """A provider's words, cut where they quote any of the intent's prompts."""
        for unit, positions in intent.rows.items():
            for position in positions:
                words = without_quotes(words, self.prompt(unit, position))
        return words

    def answered(self) -> Iterator[tuple[Piece, list[Response]]]:
        """The pieces whose rows all have a final answer, with the answers."""
        for receipt in self._pieces.pending():
            piece = self._pieces.read(receipt)
            rows = self._tries(piece).values()
            if not any(row.response is None or row.waiting or self._is_open(row) for row in rows):
                yield piece, [self._final(row) for row in rows]

    def prompt(self, unit: str, position: int) -> Prompt:
        """The prompt of a row. The piece of the last call stays in memory."""
        if unit != self._unit:
            piece = self._pieces.read(self._pending[unit])
            prompts = zip(piece.todo["position"].to_pylist(), self._prompts_of(piece), strict=True)
            self._unit, self._prompts = unit, dict(prompts)
        return self._prompts[position]

    def _prompts_of(self, piece: Piece) -> list[Prompt]:
        return of_shard(piece.todo["prompt"], self._context.snapshot.prompt_kind)

    def _tries(self, piece: Piece) -> dict[int, Tries]:
        """The state of the rows of `piece.todo`, in that order."""
        earlier = [piece.answers[i] for i in piece.indices]
        attempts = [0 if answer is None else answer[0].attempts for answer in earlier]
        return self.ledger.tries(piece.unit, dict(zip(piece.todo["position"].to_pylist(), attempts, strict=True)))

    def _is_open(self, row: Tries) -> bool:
        """Whether the row has to be submitted."""
        return not row.waiting and row.again and row.asked <= self._pieces.model.retries

    def _final(self, row: Tries) -> Response:
        assert row.response is not None
        response = row.response._replace(attempts=row.asked)
        return response if self._check is None else checked(response, self._check)


def _nothing() -> None:
    pass


def custom_id(position: int) -> str:
    return f"row-{position}"


def position_of(custom_id: str) -> int:
    return int(custom_id.removeprefix("row-"))


def limits_of(context: Context) -> JobLimits:
    """The job's limits, with the upper bound of all open batches reserved, and the answers of ended ones counted."""
    limits = JobLimits(context.job, context.snapshot, context.work, context.engine.alone)
    if context.job.max_cost is None and context.job.max_tokens is None:
        return limits
    for shard in SHARDS:
        assigned, ledger = shard_stage(context.work, shard).receipts(), Ledger(context.work, shard)
        rows: Counter[str] = Counter()
        for intent in ledger.open():
            rows.update({unit: len(positions) for unit, positions in intent.rows.items()})
        for unit, count in rows.items():
            limits.reserve(shard, assigned[unit], count)
        stage = context.work.stage(shard)
        # What a reopened unit took is in the answers that it kept.
        pending = assigned.keys() - stage.receipts().keys() - stage.kept_units()
        for unit, responses in ledger.answered(pending):
            limits.add_begun(shard, unit, responses)
    return limits
