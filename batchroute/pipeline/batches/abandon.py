"""Giving up the provider batches of a run that is about to be removed, so that they cost no more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import closing

from batchroute.config.job import Job, JobModel
from batchroute.errors import InputError, StoppedError
from batchroute.generators.batch.api import InDoubtError
from batchroute.generators.batch.states import ENDED
from batchroute.pipeline.batches.ledger import Intent, Ledger
from batchroute.pipeline.shards.names import SHARDS, side_of
from batchroute.storage.workdir import Workdir

# Seconds for which a call to cancel a batch is retried.
_PATIENCE_TO_CANCEL = 30.0


def abandon(job: Job, work: Workdir, patience: float = _PATIENCE_TO_CANCEL) -> list[str]:
    """Cancel the batches of a run that is about to be removed, as far as possible; a line for each."""
    return [line for shard in SHARDS for line in _abandon(job.models.of(side_of(shard)), Ledger(work, shard), patience)]


def _abandon(model: JobModel, ledger: Ledger, patience: float) -> Iterator[str]:
    down: StoppedError | None = None
    for intent in ledger.open():
        name = ledger.batch_id(intent)
        what = f"the batch {name or intent.name} of {intent.requests:,} requests at {intent.host}"
        try:
            if down is not None:
                raise down
            was = _cancel(model, name, intent, ledger.batch_ids, patience)
        except (InputError, StoppedError) as error:
            down = error if isinstance(error, StoppedError) and not isinstance(error, InDoubtError) else None
            yield f"could not cancel {what}, which may go on and be billed; cancel it there by hand: {error}"
            continue
        if was == "running":
            yield f"cancelled {what}; what it had answered may be billed"
        elif was == "ended":
            yield f"gave up {what}, which has ended there and may be billed"


def _cancel(
    model: JobModel, batch_id: str | None, intent: Intent, known: Callable[[], Collection[str]], patience: float
) -> str | None:
    """Cancel a batch; returns its state before: running or ended; None when it was never submitted."""
    if model.record.batches is None:
        raise InputError(f"the backend is {model.backend} now")
    with closing(model.record.batches(model, patience=patience)) as api:
        if api.host != intent.host:
            raise InputError(f"the endpoint is {api.host} now")
        if batch_id is None:
            batch = api.find(intent.file_id, intent.created, requests=intent.requests, known=known)
        else:
            batch = api.retrieve(batch_id)
        if batch is None or batch.status in ENDED:
            return None if batch is None else "ended"
        api.cancel(batch.id)
    return "running"
