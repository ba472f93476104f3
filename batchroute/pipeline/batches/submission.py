"""The submission of a shard's rows: an intent, the paid call, and the id of the provider's batch, in this order."""

from __future__ import annotations

import time
from collections.abc import Collection

from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.batch.api import BatchApi, InDoubtError
from batchroute.generators.batch.files import files
from batchroute.generators.batch.outcomes import RowOutcome
from batchroute.pipeline.batches.ledger import Intent, Ledger
from batchroute.pipeline.batches.rows import Rows
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.answers import schema_of
from batchroute.pipeline.shards.names import SHARDS
from batchroute.pipeline.shards.pieces import Pieces


class Submission:
    def __init__(self, context: Context, pieces: Pieces, rows: Rows, api: BatchApi) -> None:
        self._context, self._pieces, self._rows, self._api = context, pieces, rows, api
        self._model, self._shard, self._progress = pieces.model, pieces.shard, context.engine.progress
        self._ledger = rows.ledger
        # Intents whose paid call this process is about to make.
        self._mine: set[str] = set()
        self._checked = False
        # Intents of which it was told that their paid call may have been made.
        self._doubts: set[str] = set()

    def submit(self) -> None:
        """Submit the rows that are in no batch and have no final answer, as far as the job's limits allow."""
        while not self._submit_rest():
            pass

    def _submit_rest(self) -> bool:
        """False when another process has submitted rows since the ledger was loaded."""
        self._ledger.load()
        for intent in self._ledger.open():
            self.batch_id(intent)
        lines = self._rows.lines(self._api, self._preflight)
        for keys, data in files(lines, self._model.batch_requests, self._api.most_bytes):
            rows: dict[str, list[int]] = {}
            for unit, position in keys:
                rows.setdefault(unit, []).append(position)
            name = f"batchroute-{self._context.snapshot.run_id}-{self._shard}-{len(self._ledger.intents):05d}.jsonl"
            mine = self._ledger.intend(rows, self._api.prepare(name, data), self._api.host, time.time())
            if mine is None:
                return False
            self._mine.add(mine.name)
            self.batch_id(mine, data)
        return True

    def batch_id(self, intent: Intent, data: bytes | None = None) -> str | None:
        """The id of the intent's batch, which is created unless it exists: this is the paid call.

        Args:
            data: its lines, which the process that put the intent has.

        Returns:
            None while it shows only later whether the batch exists, and once it shows that it never did.
        """
        if self._api.host != intent.host:
            raise InputError(
                f"a batch of {intent.requests:,} requests was submitted to {intent.host}, but the endpoint is "
                f"{self._api.host} now; set it back, or start again with --fresh"
            )
        if intent.name not in self._mine and intent.name not in self._doubts:
            self._leave_to_others(intent)
        batch_id = self._ledger.batch_id(intent)
        if batch_id is not None:
            return batch_id
        try:
            created = self._created(intent, data)
        except InDoubtError as doubt:
            self._note_doubt(intent, doubt)
            return None
        if created is None:
            self._close(intent)
            return None
        batch_id = self._ledger.submitted(intent, created)
        if batch_id != created:
            # Another process put its id first: its batch counts.
            self._api.cancel(created)
        self._progress.note(
            "submitted",
            f"{self._shard}: {intent.requests:,} requests are submitted to {self._api.host} as {batch_id}",
            batch=batch_id,
            requests=intent.requests,
        )
        return batch_id

    def _created(self, intent: Intent, data: bytes | None) -> str | None:
        """The id of the intent's batch: one that is there, or a new one; None: it was never submitted.

        Raises:
            InDoubtError: it shows only later.
            InputError, StoppedError: as `BatchApi.create`, without words that quote a prompt.
        """
        if intent.name not in self._mine:
            # An earlier attempt may have made the paid call and ended before it put the id. What is listed within the
            # lease does not show that there will be no batch, and listing may take long.
            settled = time.time() >= intent.created + self._api.lease
            batch = self._api.find(intent.file_id, intent.created, requests=intent.requests, known=self._known)
            if batch is not None:
                return str(batch.id)
            if self._api.keyless and not settled:
                raise InDoubtError(f"{self._api.host} may still be at it")
            if self._api.keyless:
                return None
        # Whether it was made is asked from here on.
        self._mine.discard(intent.name)
        name = f"{self._shard}/{intent.name}"
        metadata = {"batchroute_run": self._context.snapshot.run_id, "batchroute_batch": name}
        try:
            lines = bytes if data is None else lambda: data
            return str(self._api.create(intent.file_id, metadata, lines, since=intent.created).id)
        except InDoubtError:
            raise
        except (InputError, StoppedError) as error:
            raise type(error)(self._rows.unquoted(intent, str(error))) from error

    def _close(self, intent: Intent) -> None:
        """The intent was never submitted: its rows go into another."""
        outcome = RowOutcome(Response(error_type="api_error", error="it was never submitted", attempts=0), again=True)
        outcomes = {position: outcome for positions in intent.rows.values() for position in positions}
        self._ledger.conclude(intent, outcomes, 0.0, schema_of(self._model))

    def _known(self) -> Collection[str]:
        """The ids of all batches of this run that are known to be of one intent."""
        ledgers = (Ledger(self._context.work, shard) for shard in SHARDS)
        return {name for ledger in ledgers for name in ledger.batch_ids()}

    def _leave_to_others(self, intent: Intent) -> None:
        """Wait while the process that put the intent may still be at the paid call."""
        now = time.time()
        until = min(intent.created, now) + self._api.lease
        if self._ledger.batch_id(intent) is None and now < until:
            self._progress.note(
                "waiting_for_another",
                f"{self._shard}: another attempt was about to submit {intent.requests:,} requests and may still be at "
                f"it; going on when it has, or in {until - now:.0f} s",
            )
        while self._ledger.batch_id(intent) is None and time.time() < until:
            time.sleep(min(1.0, self._model.poll_seconds))

    def _note_doubt(self, intent: Intent, doubt: InDoubtError) -> None:
        if intent.name not in self._doubts:
            self._doubts.add(intent.name)
            self._progress.note(
                "in_doubt",
                f"{self._shard}: an attempt that was cut may have submitted a batch of {intent.requests:,} requests: "
                f"{doubt}; these rows are not submitted again before that is known",
                requests=intent.requests,
            )

    def _preflight(self) -> None:
        """Ask one small request of the chat API before the first batch. Its answer is nobody's."""
        if self._checked:
            return
        self._checked = True
        ends = self._pieces.extremes()
        note = self._api.preflight(*ends) if ends is not None else None
        self.log_notes()
        if note:
            self._progress.note("preflight", f"{self._shard}: {note}")

    def log_notes(self) -> None:
        while self._api.notes:
            self._progress.note("model", self._api.notes.pop(0))
