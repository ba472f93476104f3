"""Provider batches: a shard is submitted whole, in as few batches as the provider takes, and answered within a day.

Nothing is paid for twice. Before each paid call an intent is put, which names the uploaded file. After a crash the
provider is asked whether it has a batch of that file. Rows that a batch did not answer (it expired, or lines are
missing) go into another batch.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from batchroute.errors import InputError, StoppedError
from batchroute.fields import SIDES, Side
from batchroute.generators.base import Response
from batchroute.generators.openai.batch_api import TOKEN_LIMIT
from batchroute.generators.openai.batch_files import files
from batchroute.generators.openai.batch_outcomes import RowOutcome
from batchroute.generators.openai.batches import ENDED, RUNNING, ProviderBatch
from batchroute.pipeline.batches.ledger import Intent
from batchroute.pipeline.batches.rows import Rows, custom_id, position_of
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.answers import schema_of
from batchroute.pipeline.shards.pieces import Pieces
from batchroute.pipeline.shards.telemetry import attributes
from batchroute.pipeline.shards.writer import shards_of
from batchroute.progress import Pace, Report
from batchroute.redaction import without_quotes
from batchroute.words import duration

_FIRST_LOOK_SECONDS, _GROWTH = 1.0, 1.5


def submit_batches(context: Context) -> None:
    """Submit the rows of models behind a batch API that are in no batch yet, as far as the job's limits allow.

    Raises:
        InputError: the endpoint, the key or the model is wrong.
        StoppedError: the provider does not answer.
    """
    for side in SIDES:
        if context.job.models.of(side).record.batches is not None:
            with _pending(context, side) as shards:
                for batches in shards:
                    batches.submit()


def answer_by_batches(context: Context, side: Side, wait: bool) -> bool:
    """Submit the rest of a model's shards, and fetch the answers of batches that have ended.

    Args:
        wait: until all batches have ended.

    Returns:
        Whether all pieces are answered.

    Raises:
        InputError: as `submit_batches`, or the provider refuses a batch.
        StoppedError: as `submit_batches`; a limit of the job is reached; somebody cancelled a batch by hand; or no
            request of a batch was answered, for a reason that holds for the other batches too.
    """
    with _pending(context, side) as shards:
        for batches in shards:
            # All of them, before one is waited for.
            batches.submit()
        complete = [batches.answer(wait) for batches in shards]
    return all(complete)


@contextmanager
def _pending(context: Context, side: Side) -> Iterator[list[_Batches]]:
    with ExitStack() as stack:
        shards = [Pieces(context, shard) for shard in shards_of(side)]
        yield [stack.enter_context(closing(_Batches(context, pieces))) for pieces in shards if pieces.pending()]


class _Batches:
    """The batches of one shard."""

    def __init__(self, context: Context, pieces: Pieces) -> None:
        self._context, self._pieces = context, pieces
        self._model, self._shard, self._progress = pieces.model, pieces.shard, context.engine.progress
        open_batches = self._model.record.batches
        assert open_batches is not None
        self._rows = Rows(context, pieces)
        self._ledger = self._rows.ledger
        self._api = open_batches(self._model)
        self._mine: set[str] = set()
        self._checked = False
        self._pace = Pace()
        # Why the provider refused a batch for now, and whether another batch has brought answers since.
        self._no_room: StoppedError | None = None
        self._brought = False
        # Why a batch is given up, and the states that were noted.
        self._overdue: StoppedError | None = None
        self._noted: set[tuple[str, str]] = set()

    def close(self) -> None:
        self._api.close()

    def submit(self) -> None:
        """Submit the rows that are in no batch and have no final answer, as far as the job's limits allow."""
        while not self._submit_rest():
            pass

    def _submit_rest(self) -> bool:
        """False when another process has submitted rows since the ledger was loaded."""
        self._ledger.load()
        for intent in self._ledger.open():
            self._begin(intent)
        for keys, data in files(self._rows.lines(self._api, self._preflight), self._model.batch_requests):
            rows: dict[str, list[int]] = {}
            for unit, position in keys:
                rows.setdefault(unit, []).append(position)
            name = f"batchroute-{self._context.snapshot.run_id}-{self._shard}-{len(self._ledger.intents):05d}.jsonl"
            mine = self._ledger.intend(rows, self._api.upload(name, data), self._api.host, time.time())
            if mine is None:
                return False
            self._mine.add(mine.name)
            self._begin(mine)
        return True

    def _preflight(self) -> None:
        """Ask one small request of the chat API before the first batch. Its answer is nobody's."""
        if self._checked:
            return
        self._checked = True
        ends = self._pieces.extremes()
        note = self._api.preflight(*ends) if ends is not None else None
        self._log_notes()
        if note:
            self._progress.note("preflight", f"{self._shard}: {note}")

    def _log_notes(self) -> None:
        while self._api.notes:
            self._progress.note("model", self._api.notes.pop(0))

    def answer(self, wait: bool) -> bool:
        """Whether all pieces are answered."""
        done, pending = self._pieces.done(), self._pieces.pending()
        about = attributes(self._model)
        with self._progress.stage(self._shard, len(done) + len(pending), done, about) as report:
            while True:
                self._fetch(report, wait)
                if not self._pieces.pending():
                    return True
                self.submit()
                if self._rows.over_limit is not None and not self._ledger.open():
                    raise self._rows.over_limit
                if not wait:
                    return False

    def _begin(self, intent: Intent) -> str:
        """Create the intent's batch, unless it exists, and return its id. This is the paid call."""
        if self._api.host != intent.host:
            raise InputError(
                f"a batch of {intent.requests:,} requests was submitted to {intent.host}, but the endpoint is "
                f"{self._api.host} now; set it back, or start again with --fresh"
            )
        if intent.name not in self._mine:
            self._leave_to_others(intent)
        batch_id = self._ledger.batch_id(intent)
        if batch_id is not None:
            return batch_id
        # An earlier attempt may have made the paid call and ended before it put the id.
        batch = None if intent.name in self._mine else self._api.find(intent.file_id, intent.created)
        if batch is None:
            name = f"{self._shard}/{intent.name}"
            metadata = {"batchroute_run": self._context.snapshot.run_id, "batchroute_batch": name}
            batch = self._api.create(intent.file_id, metadata)
        batch_id = self._ledger.submitted(intent, batch.id)
        if batch_id != batch.id:
            # Another process put its id first: its batch counts.
            self._api.cancel(batch.id)
        self._progress.note(
            "submitted",
            f"{self._shard}: {intent.requests:,} requests are submitted to {self._api.host} as {batch_id}",
            batch=batch_id,
            requests=intent.requests,
        )
        return batch_id

    def _leave_to_others(self, intent: Intent) -> None:
        """Wait while the process that put the intent may still be at the paid call."""
        now = time.time()
        until = min(intent.created, now) + self._model.timeout
        if self._ledger.batch_id(intent) is None and now < until:
            self._progress.note(
                "waiting_for_another",
                f"{self._shard}: another attempt was about to submit {intent.requests:,} requests and may still be at "
                f"it; going on when it has, or in {until - now:.0f} s",
            )
        while self._ledger.batch_id(intent) is None and time.time() < until:
            time.sleep(min(1.0, self._model.poll_seconds))

    def _fetch(self, report: Report, wait: bool) -> None:
        """Fetch the answers of all batches that have ended, and commit them. With `wait`, until all have ended."""
        seconds = min(_FIRST_LOOK_SECONDS, self._model.poll_seconds)
        self._no_room, self._overdue, self._brought, first = None, None, False, True
        while True:
            submitted = self._ledger.open()
            answered = {intent.name: count for intent in submitted if (count := self._look(intent)) is not None}
            if first or len(answered) < len(submitted):
                self._commit(report)
            if self._overdue is not None:
                raise self._overdue
            if not answered and self._no_room is not None and not self._brought:
                raise self._no_room
            if not answered or not wait:
                return
            if self._pace.is_time():
                self._log_progress([intent for intent in submitted if intent.name in answered], sum(answered.values()))
            time.sleep(seconds)
            seconds, first = min(self._model.poll_seconds, seconds * _GROWTH), False

    def _log_progress(self, running: Sequence[Intent], answered: int) -> None:
        requests, batches = sum(intent.requests for intent in running), len(running)
        self._progress.note(
            "batches",
            f"{self._shard}: {batches:,} {'batch' if batches == 1 else 'batches'} at {self._api.host}: "
            f"{answered:,} of {requests:,} requests answered",
            batches=batches,
            requests=requests,
            answered=answered,
        )

    def _look(self, intent: Intent) -> int | None:
        """How many requests are answered so far; None once the batch has ended and its answers are in the ledger."""
        batch = self._api.retrieve(self._begin(intent))
        given_up = time.time() - intent.created > self._model.give_up_after
        # A provider that cancels for ever keeps nobody from going on.
        if batch.status not in ENDED and not (batch.status == "cancelling" and given_up):
            self._note_state(batch)
            if given_up:
                self._overdue = self._give_up(intent, batch)
            return int(batch.answered)
        if batch.status == "failed" and batch.output_file_id is None:
            self._fail(intent, batch)
        else:
            self._conclude(intent, batch)
        return None

    def _note_state(self, batch: ProviderBatch) -> None:
        if batch.status not in RUNNING and (batch.id, batch.status) not in self._noted:
            self._noted.add((batch.id, batch.status))
            self._progress.note(
                "unknown_state",
                f"{self._shard}: the batch {batch.id} at {self._api.host} is in a state that batchroute does not know, "
                f"'{batch.status}': waiting until it ends",
                batch=batch.id,
            )

    def _give_up(self, intent: Intent, batch: ProviderBatch) -> StoppedError:
        age = duration(time.time() - intent.created)
        return StoppedError(
            f"{self._api.host} has not finished the batch {batch.id} of {intent.requests:,} requests in {age} (state "
            f"'{batch.status}', {batch.answered:,} answered). To give it up, cancel it, for example by "
            f"{self._api.cancel_command(batch.id)} and run again: its answers are kept, and the rest is submitted "
            f"again. To wait longer, set models.{self._pieces.side}.give_up_after to more"
        )

    def _fail(self, intent: Intent, batch: ProviderBatch) -> None:
        """The provider did not begin the batch: nothing was paid, and all its rows will be submitted again."""
        code, reason = self._api.refusal(batch)
        for unit, positions in intent.rows.items():
            for position in positions:
                # A reason that quotes any of the requests is cut there: more people read logs than data.
                reason = without_quotes(reason, self._rows.prompt(unit, position))
        outcomes = _outcomes(intent, f"the batch was refused: {code}", attempts=0)
        self._ledger.conclude(intent, outcomes, 0.0, schema_of(self._pieces.model))
        if code != TOKEN_LIMIT:
            raise InputError(f"{self._api.host} refuses the batch {batch.id}: {reason}; fix it and run again")
        # The provider has room again when another batch ends.
        self._no_room = StoppedError(
            f"{self._api.host} has no room for the batch {batch.id} of {intent.requests:,} requests: {reason}; set "
            f"models.{self._pieces.side}.batch_requests to less, or run again when other batches have ended"
        )

    def _conclude(self, intent: Intent, batch: ProviderBatch) -> None:
        outcomes = _outcomes(intent, f"the batch is {batch.status}, without an answer to this row")
        units = {custom_id(position): unit for unit, positions in intent.rows.items() for position in positions}
        answers = self._api.outcomes(batch, lambda name: self._rows.prompt(units[name], position_of(name)), units)
        for name, outcome in answers:
            # Of two answers to one row the first counts.
            if outcomes[position_of(name)].again:
                outcomes[position_of(name)] = outcome
        self._log_notes()
        hopeless = self._api.hopeless(batch, list(outcomes.values()))
        if hopeless is not None:
            # Count no attempt: the batch never began.
            outcomes = {
                position: RowOutcome(dataclasses.replace(outcome.response, attempts=0), again=True)
                for position, outcome in outcomes.items()
            }
        created = batch.created or intent.created
        seconds = max(0.0, (batch.ended or created) - created)
        self._ledger.conclude(intent, outcomes, seconds, schema_of(self._pieces.model))
        if hopeless is not None:
            raise hopeless
        self._brought = True
        kept = sum(not outcome.again for outcome in outcomes.values())
        # Who cancels a batch that the run has given up wants the rest to be submitted again.
        given_up = time.time() - intent.created > self._model.give_up_after
        if batch.status == "cancelled" and kept < intent.requests and not given_up:
            raise StoppedError(
                f"the batch {batch.id} was cancelled at {self._api.host}; {kept:,} of its {intent.requests:,} answers "
                "are kept; run again to submit the rest"
            )

    def _commit(self, report: Report) -> None:
        """Commit the pieces whose rows all have a final answer."""
        for piece, responses in self._rows.answered():
            report(self._pieces.commit(piece, responses, self._ledger.seconds_of(piece.unit), 0.0))


def _outcomes(intent: Intent, reason: str, attempts: int = 1) -> dict[int, RowOutcome]:
    """An outcome without an answer for each row of the intent."""
    outcome = RowOutcome(Response(error_type="api_error", error=reason, attempts=attempts), again=True)
    return {position: outcome for positions in intent.rows.values() for position in positions}
