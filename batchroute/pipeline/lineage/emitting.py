"""When a run sends events of lineage: START when its input is fixed, then COMPLETE, FAIL or ABORT. Rank 0 sends them.

No event ever fails a night: what goes wrong is one line of the log. A run that waits for a provider sends no end; the
attempt that ends it does, under the same id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from batchroute.config.job import Job
from batchroute.engines.base import Engine
from batchroute.errors import BatchrouteError, Terminated, WaitingError
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context, join
from batchroute.progress import Progress
from batchroute.reports.export import lineage
from batchroute.reports.export.notify import ending
from batchroute.storage.folder import Folder
from batchroute.storage.manifest import Manifest
from batchroute.storage.workdir import Workdir, run_ids

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

Complete = Callable[[Manifest], None]


@contextmanager
def traced(context: Context) -> Iterator[Complete]:
    """Sends START now, and FAIL or ABORT if the block raises. The block calls what it is given when all is done."""
    spec, progress = context.job.lineage, context.engine.progress
    if spec is None or lineage.is_off(spec):
        yield lambda committed: None
        return
    sender = _Sender(spec, progress)
    try:
        sender.guard(lambda: context.work.folder.remove(layout.LINEAGE))
        sender.send(lambda: _events().started(context))
        yield lambda committed: _complete(context, committed, sender)
    except WaitingError:
        raise
    except BaseException as error:
        message, aborted = ending(error)[2], isinstance(error, Terminated | KeyboardInterrupt)
        sender.send(lambda: _events().failed(context, message, aborted))
        raise


def catch_up(job: Job, output: Folder, committed: Manifest, engine: Engine) -> None:
    """Send COMPLETE of a committed run, unless that was done: its last attempt may have been killed just before, or the
    server was down. Without the run's work folder nobody can tell, and nothing is sent.
    """
    if job.lineage is None or lineage.is_off(job.lineage) or committed.run_id not in run_ids(output):
        return
    if Workdir(output, committed.run_id).read_json(layout.LINEAGE) is not None:
        return
    sender = _Sender(job.lineage, engine.progress)
    sender.guard(lambda: _complete(join(job, committed.run_id, engine), committed, sender))


def _complete(context: Context, committed: Manifest, sender: _Sender) -> None:
    if sender.send(lambda: _events().completed(context, committed)):
        sender.guard(lambda: context.work.put_json(layout.LINEAGE, {"complete": committed.committed_at}))


def _events() -> ModuleType:
    """Imported where an event is made: it needs the client."""
    from batchroute.pipeline.lineage import events

    return events


class _Sender:
    """Sends events, and warns once."""

    def __init__(self, spec: lineage.LineageSpec, progress: Progress) -> None:
        self._spec, self._progress, self._warned = spec, progress, False

    def send(self, make: Callable[[], RunEvent]) -> bool:
        """Whether the event was sent."""
        sent: list[bool] = []

        def work() -> None:
            event = make()
            # A server that did not take START is not waited for again as long.
            warning = lineage.send(self._spec, event, lineage.SECONDS / 2 if self._warned else lineage.SECONDS)
            sent.append(warning is None)
            if warning is not None:
                self._warn(warning)

        self.guard(work)
        return sent == [True]

    def guard(self, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception as error:
            why = str(error) if isinstance(error, BatchrouteError) else type(error).__name__
            self._warn(f"no event of lineage is sent: {why}")

    def _warn(self, warning: str) -> None:
        if not self._warned:
            self._warned = True
            self._progress.note("lineage", warning)
