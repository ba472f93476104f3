"""Provider batches: a shard is submitted whole, in as few batches as the provider takes, and answered within a day.

Nothing is paid for twice. Before each paid call an intent is put, which names what the provider will know the batch by.
After a crash the provider is asked whether it has that batch. Rows that a batch did not answer (it expired, or lines
are missing) go into another batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from batchroute.fields import SIDES, Side
from batchroute.pipeline.batches.endings import Endings
from batchroute.pipeline.batches.ledger import Intent
from batchroute.pipeline.batches.rows import Rows
from batchroute.pipeline.batches.submission import Submission
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.names import shards_of
from batchroute.pipeline.shards.pieces import Pieces
from batchroute.pipeline.shards.telemetry import attributes
from batchroute.progress import Pace, Report

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
        self._pieces, self._model, self._shard = pieces, pieces.model, pieces.shard
        self._progress = context.engine.progress
        open_batches = self._model.record.batches
        assert open_batches is not None
        self._rows = Rows(context, pieces)
        self._ledger = self._rows.ledger
        self._api = open_batches(self._model)
        self._submission = Submission(context, pieces, self._rows, self._api)
        self._endings = Endings(context, pieces, self._rows, self._api, self._submission)
        self._pace = Pace()

    def close(self) -> None:
        self._api.close()

    def submit(self) -> None:
        """Submit the rows that are in no batch and have no final answer, as far as the job's limits allow."""
        self._submission.submit()

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

    def _fetch(self, report: Report, wait: bool) -> None:
        """Fetch the answers of all batches that have ended, and commit them. With `wait`, until all have ended."""
        seconds = min(_FIRST_LOOK_SECONDS, self._model.poll_seconds)
        self._endings.begin()
        first = True
        while True:
            submitted = self._ledger.open()
            looks = ((intent.name, self._endings.look(intent)) for intent in submitted)
            answered = {name: count for name, count in looks if count is not None}
            if first or len(answered) < len(submitted):
                self._commit(report)
            self._endings.check(waiting=bool(answered))
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

    def _commit(self, report: Report) -> None:
        """Commit the pieces whose rows all have a final answer."""
        for piece, responses in self._rows.answered():
            report(self._pieces.commit(piece, responses, self._ledger.seconds_of(piece.unit), 0.0))
