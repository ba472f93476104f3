"""Provider batches: a shard is submitted whole, in as few batches as the provider takes, and answered within a day.

Nothing is paid for twice. A batch is begun only after its intent is written down; whether a crash came before or after
the paid call, the provider is asked by the file that the intent names. Rows that a batch brought no answer to (it
expired, or lines are missing) go into another one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from batchroute.engines.local import LocalEngine
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Prompt, Response
from batchroute.generators.openai_batch import ENDED, TOKEN_LIMIT, BatchApi, files
from batchroute.generators.validation import Check, checked
from batchroute.progress import Report
from batchroute.spec import Job, Side
from batchroute.stages.context import Context
from batchroute.stages.ledger import Intent, Ledger, Tries
from batchroute.stages.limits import Limits
from batchroute.stages.pieces import Piece, Pieces
from batchroute.stages.shards import SHARDS, shards_of, side_of
from batchroute.storage.workdir import Receipt, Workdir

if TYPE_CHECKING:
    from openai.types import Batch

_FIRST_LOOK_SECONDS = 1.0
_GROWTH = 1.5


def submit(context: Context, side: Side) -> None:
    """Submit all rows of a model's shards that are in no batch yet, and do not wait for them.

    Raises:
        InputError: the endpoint, the key or the model is wrong.
        StoppedError: a limit of the job is reached, or the provider does not answer.
    """
    for batches in _pending(context, side):
        with batches:
            batches.submit()


def answer(context: Context, side: Side, wait: bool) -> bool:
    """Submit what is left of a model's shards, and fetch what has ended.

    Args:
        wait: until all of it has.

    Returns:
        Whether all pieces are answered.

    Raises:
        InputError, StoppedError: as `submit`; also when a batch was cancelled by hand.
    """
    complete = True
    for batches in _pending(context, side):
        with batches:
            complete &= batches.answer(wait)
    return complete


def abandon(job: Job, work: Workdir) -> list[str]:
    """Cancel the batches of a run that is to be removed, as far as that can be done; a line for each."""
    lines = []
    for shard in SHARDS:
        ledger, model = Ledger(work, shard), job.models.of(side_of(shard))
        for intent in ledger.open():
            what = (
                f"the batch {ledger.batch_id(intent) or intent.name} of {intent.requests:,} requests at {intent.host}"
            )
            try:
                if model.backend != "openai_batch":
                    raise InputError(f"models.{side_of(shard)} is of the backend {model.backend} now")
                _cancel(BatchApi(model), ledger, intent)
                lines.append(f"cancelled {what}; what it had answered may be billed")
            except (InputError, StoppedError) as error:
                lines.append(f"could not cancel {what}: {error}")
    return lines


def _cancel(api: BatchApi, ledger: Ledger, intent: Intent) -> None:
    _check_host(api, intent)
    batch_id = ledger.batch_id(intent)
    found = api.find(intent.file_id, intent.created) if batch_id is None else api.retrieve(batch_id)
    if found is not None and found.status not in ENDED:
        api.cancel(found.id)
    api.close()


def _pending(context: Context, side: Side) -> list[_Batches]:
    shards = [Pieces(context, shard) for shard in shards_of(side)]
    return [_Batches(context, pieces) for pieces in shards if pieces.pending()]


class _Batches:
    """The batches of one shard."""

    def __init__(self, context: Context, pieces: Pieces) -> None:
        self._context, self._pieces = context, pieces
        self._engine: LocalEngine = context.engine
        self._model, self._shard = pieces.model, pieces.shard
        self._api = BatchApi(pieces.model)
        self._ledger = Ledger(context.work, pieces.shard)
        form = pieces.model.response_format
        self._check = None if form is None else Check.of_format(form)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self._api.close()

    def submit(self) -> None:
        while True:
            self._ledger.load()
            for intent in self._ledger.open():
                self._begin(intent)
            if self._submit_rest():
                return

    def _submit_rest(self) -> bool:
        """Submit the rows that are in no batch; False when another process has submitted some meanwhile."""
        limits = Limits(self._context)
        lines = (line for piece in self._read() for line in self._lines(piece, limits))
        for keys, data in files(lines, self._model.batch_requests):
            rows: dict[str, list[int]] = {}
            for unit, position in keys:
                rows.setdefault(unit, []).append(position)
            name = f"batchroute-{self._context.snapshot.run_id}-{self._shard}-{len(self._ledger.intents):05d}.jsonl"
            intent = self._ledger.intend(rows, self._api.upload(name, data), self._api.host, time.time())
            if intent is None:
                return False
            self._begin(intent)
        return True

    def answer(self, wait: bool) -> bool:
        """Whether all is answered."""
        progress, done, pending = self._engine.progress, self._pieces.done(), self._pieces.pending()
        with progress.stage(self._shard, len(done) + len(pending), done) as report:
            while True:
                self._fetch(wait)
                self._commit(report)
                if not self._pieces.pending():
                    return True
                self.submit()
                if not wait:
                    return False

    def _read(self) -> Iterator[Piece]:
        for receipt in self._pieces.pending():
            yield self._pieces.read(receipt)

    def _lines(self, piece: Piece, limits: Limits) -> Iterator[tuple[tuple[str, int], bytes]]:
        """The requests for the piece's rows that are in no open batch and have no final answer."""
        positions, prompts = piece.todo["position"].to_pylist(), piece.todo["prompt"].to_pylist()
        tries = self._ledger.tries(piece.unit, positions)
        waiting = sum(row.waiting for row in tries.values())
        asked = [i for i, position in enumerate(positions) if self._is_open(tries[position])]
        at_most = self._at_most(piece, len(asked) + waiting)
        if asked:
            limits.before(self._shard, piece.receipt, at_most)
        elif waiting:
            limits.reserve(self._shard, piece.receipt, at_most)
        seeds = self._pieces.seeds(positions)
        for i in asked:
            yield (piece.unit, positions[i]), self._api.line(_custom_id(positions[i]), prompts[i], seeds[i])

    def _is_open(self, row: Tries) -> bool:
        """Whether the row is to be submitted."""
        return not row.waiting and row.again and row.asked <= self._model.retries

    def _at_most(self, piece: Piece, rows: int) -> tuple[int, int]:
        """Pico-dollars and tokens that so many rows may take: a batch has no boundary to stop at."""
        written, read = rows * self._model.generation.max_new_tokens, piece.receipt.counts["tokens"]
        price = self._context.snapshot.price(self._pieces.side)
        cost = 0 if price is None or not price.by_token else price.of_tokens(read, written)
        return cost, read + written

    def _begin(self, intent: Intent) -> None:
        """See to it that the intent's batch is there: this is the paid call."""
        _check_host(self._api, intent)
        if self._ledger.batch_id(intent) is not None:
            return
        # Written down by an attempt that ended before it could say what came of it, perhaps this very moment ago.
        found = self._api.find(intent.file_id, intent.created)
        if found is None:
            name = f"{self._context.snapshot.run_id}-{self._shard}-{intent.name}"
            metadata = {
                "batchroute_run": self._context.snapshot.run_id,
                "batchroute_batch": f"{self._shard}/{intent.name}",
            }
            found = self._api.create(intent.file_id, name, metadata)
        batch_id = self._ledger.submitted(intent, found.id)
        if batch_id != found.id:
            # Another process was first, a moment ago: its batch counts.
            self._api.cancel(found.id)
        self._engine.progress.note(
            "submitted",
            f"{self._shard}: batch {batch_id} of {intent.requests:,} requests at {self._api.host}",
            batch=batch_id,
            requests=intent.requests,
        )

    def _fetch(self, wait: bool) -> None:
        """Fetch what came of all batches that have ended; of all, waiting for them."""
        seconds = min(_FIRST_LOOK_SECONDS, self._model.poll_seconds)
        while True:
            running = [intent for intent in self._ledger.open() if not self._look(intent)]
            if not running or not wait:
                return
            time.sleep(seconds)
            seconds = min(self._model.poll_seconds, seconds * _GROWTH)

    def _look(self, intent: Intent) -> bool:
        """Whether the batch has ended; then what came of it is put into the ledger."""
        self._begin(intent)
        batch_id = self._ledger.batch_id(intent)
        assert batch_id is not None
        batch = self._api.retrieve(batch_id)
        if batch.status not in ENDED:
            counts = batch.request_counts
            self._engine.progress.pulse(self._shard, batch_id, counts.completed if counts else 0, intent.requests)
            return False
        if batch.status == "failed":
            self._fail(intent, batch)
        else:
            self._conclude(intent, batch)
        return True

    def _fail(self, intent: Intent, batch: Batch) -> None:
        """The provider did not begin the batch: nothing was paid, and all its rows are to be submitted again."""
        code, words = self._api.refusal(batch)
        nothing = Response(error_type="api_error", error=f"the batch was refused: {code}", attempts=0)
        positions = [position for positions in intent.rows.values() for position in positions]
        self._ledger.conclude(intent, dict.fromkeys(positions, (nothing, True)), 0.0)
        if code != TOKEN_LIMIT:
            raise InputError(f"{self._api.host} refuses the batch {batch.id}: {words}; mend it and run again")
        if not self._ledger.open():
            raise StoppedError(
                f"{self._api.host} has no room for the batch {batch.id} of {intent.requests:,} requests: {words}; set "
                f"models.{self._pieces.side}.batch_requests to less, or run again when other batches have ended"
            )

    def _conclude(self, intent: Intent, batch: Batch) -> None:
        units = {_custom_id(position): unit for unit, positions in intent.rows.items() for position in positions}
        nothing = Response(error_type="api_error", error=f"the batch is {batch.status}, without an answer to this row")
        found = {_position(custom_id): (nothing, True) for custom_id in units}
        prompts = _Prompts(self._pieces)
        for custom_id, outcome in self._api.outcomes(batch, lambda name: prompts.of(units[name], _position(name))):
            # What others' ids say is not ours; of two answers to one row the first stands.
            if custom_id in units and found[_position(custom_id)][1]:
                found[_position(custom_id)] = (outcome.response, outcome.again)
        ended = batch.completed_at or batch.expired_at or batch.cancelled_at or batch.created_at
        self._ledger.conclude(intent, found, float(max(0, ended - batch.created_at)))
        if batch.status == "cancelled":
            kept = sum(not again for _, again in found.values())
            raise StoppedError(
                f"the batch {batch.id} was cancelled at {self._api.host}; {kept:,} of its {intent.requests:,} answers "
                "are kept; run again to submit the rest"
            )

    def _commit(self, report: Report) -> None:
        """Commit all pieces whose rows have their final answers."""
        for piece in self._read():
            responses = self._responses(piece)
            if responses is not None:
                report(self._pieces.commit(piece, responses, self._ledger.seconds_of(piece.unit), 0.0))

    def _responses(self, piece: Piece) -> Sequence[Response] | None:
        """The final answers to the piece's rows; None while one is missing."""
        positions = piece.todo["position"].to_pylist()
        tries = self._ledger.tries(piece.unit, positions)
        responses = []
        for position in positions:
            row = tries[position]
            if row.response is None or row.waiting or self._is_open(row):
                return None
            response = dataclasses.replace(row.response, attempts=row.asked)
            responses.append(response if self._check is None else checked(response, self._check))
        return responses


class _Prompts:
    """Prompts by unit and position; a piece is read once as long as its rows follow one another."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._receipts: dict[str, Receipt] = {receipt.unit: receipt for receipt in pieces.pending()}
        self._unit, self._prompts = "", dict[int, Prompt]()

    def of(self, unit: str, position: int) -> Prompt:
        if unit != self._unit:
            todo = self._pieces.read(self._receipts[unit]).todo
            self._unit, self._prompts = (
                unit,
                dict(zip(todo["position"].to_pylist(), todo["prompt"].to_pylist(), strict=True)),
            )
        return self._prompts[position]


def _check_host(api: BatchApi, intent: Intent) -> None:
    if api.host != intent.host:
        raise InputError(
            f"a batch of {intent.requests:,} requests was submitted to {intent.host}, but the endpoint is {api.host} "
            "now; set it back, or start anew with --fresh"
        )


def _custom_id(position: int) -> str:
    return f"row-{position}"


def _position(custom_id: str) -> int:
    return int(custom_id.removeprefix("row-"))
