"""The end of provider batches: what their answers mean for their rows and for the run."""

from __future__ import annotations

import time

from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.batch.api import TOKEN_LIMIT, BatchApi
from batchroute.generators.batch.outcomes import RowOutcome
from batchroute.generators.batch.states import ENDED, RUNNING, ProviderBatch
from batchroute.pipeline.batches.ledger import Intent
from batchroute.pipeline.batches.rows import Rows, custom_id, position_of
from batchroute.pipeline.batches.submission import Submission
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.answers import schema_of
from batchroute.pipeline.shards.pieces import Pieces
from batchroute.words import duration


class Endings:
    def __init__(self, context: Context, pieces: Pieces, rows: Rows, api: BatchApi, submission: Submission) -> None:
        self._pieces, self._rows, self._api, self._submission = pieces, rows, api, submission
        self._model, self._shard, self._progress = pieces.model, pieces.shard, context.engine.progress
        self._ledger = rows.ledger
        # The states that were noted.
        self._noted: set[tuple[str, str]] = set()
        self.begin()

    def begin(self) -> None:
        """Forget what looks before this one brought."""
        # Why the provider refused a batch for now, and whether another batch has brought answers since.
        self._no_room: StoppedError | None = None
        self._brought = False
        # Why a batch is given up.
        self._overdue: StoppedError | None = None

    def check(self, waiting: bool) -> None:
        """
        Args:
            waiting: whether batches are still running.

        Raises:
            StoppedError: a batch takes too long, or the provider has no room for any.
        """
        if self._overdue is not None:
            raise self._overdue
        if not waiting and self._no_room is not None and not self._brought:
            raise self._no_room

    def look(self, intent: Intent) -> int | None:
        """How many requests are answered so far; None once the batch has ended and its answers are in the ledger."""
        given_up = time.time() - intent.created > self._model.give_up_after
        batch_id = self._submission.batch_id(intent)
        if batch_id is None and self._ledger.is_done(intent):
            # It was never submitted.
            return None
        if batch_id is None:
            if given_up:
                self._overdue = self._give_up_doubt(intent)
            return 0
        batch = self._api.retrieve(batch_id)
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

    def _give_up_doubt(self, intent: Intent) -> StoppedError:
        return StoppedError(
            f"{self._api.host} does not show after {duration(time.time() - intent.created)} whether a batch of "
            f"{intent.requests:,} requests was submitted. Cancel the batches there that are nobody's and run again; or "
            f"wait longer: set models.{self._pieces.side}.give_up_after to more"
        )

    def _fail(self, intent: Intent, batch: ProviderBatch) -> None:
        """The provider did not begin the batch: nothing was paid, and all its rows will be submitted again."""
        code, reason = self._api.refusal(batch)
        # More people read logs than data.
        reason = self._rows.unquoted(intent, reason)
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
        self._submission.log_notes()
        hopeless = self._api.hopeless(batch, list(outcomes.values()))
        if hopeless is not None:
            # Count no attempt: the batch never began.
            outcomes = {
                position: RowOutcome(outcome.response._replace(attempts=0), again=True)
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


def _outcomes(intent: Intent, reason: str, attempts: int = 1) -> dict[int, RowOutcome]:
    """An outcome without an answer for each row of the intent."""
    outcome = RowOutcome(Response(error_type="api_error", error=reason, attempts=attempts), again=True)
    return {position: outcome for positions in intent.rows.values() for position in positions}
