"""The local engine: this process does units on its accelerator, and shares the stage with the other ranks, if any."""

from __future__ import annotations

import contextlib
import functools
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from batchroute.engines.base import BudgetGuard, Pool, Run, Unit, Worker, Workers
from batchroute.engines.claims import Claims
from batchroute.engines.ranks.engine import Ranks
from batchroute.engines.ranks.world import World
from batchroute.errors import BatchrouteError, StoppedError
from batchroute.hardware import devices
from batchroute.progress import About, Progress, Report, nothing_more
from batchroute.storage.receipts import Receipt

if TYPE_CHECKING:
    import torch

_POLL_SECONDS = 0.5
# Claims of each thread per stage when there are several ranks. More claims: a slow thread delays the stage less.
_CLAIMS_PER_THREAD = 4


class LocalEngine:
    """Does units in order. SIGTERM drops the running unit: it has no receipt, so the next run does it again."""

    def __init__(
        self, progress: Progress, ranks: Ranks | None = None, own_process: bool = True, one_of_many: bool = False
    ) -> None:
        """
        Args:
            one_of_many: other processes that are no ranks do units of the run, too.
            own_process: whether the process is the run's alone. If not, a handler of SIGTERM that its program has set
                stays in place.
        """
        self.progress = progress
        self.own_process = own_process
        self.ranks = ranks or Ranks(World())
        self.alone = self.ranks.alone and not one_of_many
        self.stopped_by: BaseException | None = None

    @functools.cached_property
    def device(self) -> torch.device:
        """The accelerator of this rank, or the CPU."""
        return devices.of_rank(self.ranks.world.local_rank)

    def gpus(self, each: int | None) -> list[int] | None:
        return devices.gpus_of_rank(self.ranks.world.local_rank, self.ranks.world.local_size, each)

    @contextmanager
    def workers(
        self,
        run: Run,
        make_worker: Callable[[Any], Worker],
        pool: Pool | None,
        threads: int = 1,
        gpus: int | None = 1,
    ) -> Iterator[Workers]:
        workers = _LocalWorkers(self, run, make_worker, pool is not None, threads, gpus)
        try:
            yield workers
        finally:
            workers.close()

    def on_rank_zero(self, do: Callable[[], object]) -> None:
        if self.ranks.is_rank_zero:
            do()
        self.ranks.barrier()

    def broadcast(self, compute: Callable[[], Any]) -> Any:
        return self.ranks.broadcast(compute)

    def barrier(self) -> None:
        self.ranks.barrier()

    @contextmanager
    def overlapped(self, do: Callable[[], object]) -> Iterator[None]:
        """Does nothing: a process has one accelerator, which holds one model at a time."""
        yield

    def check(self) -> None:
        # The handler's exception may have been swallowed.
        if self.stopped_by is not None:
            raise self.stopped_by
        self.ranks.check()

    @contextmanager
    def terminable(self) -> Iterator[None]:
        if not self._may_handle_sigterm():
            yield
            return

        def stop(signum: int, frame: FrameType | None) -> None:
            # `check` raises it again: Python swallows an exception raised inside a destructor or a callback.
            self.stopped_by = self.ranks.reason_of_sigterm()
            raise self.stopped_by

        def report_unraisable(what: sys.UnraisableHookArgs) -> None:
            # A traceback of `stopped_by` would bury the line that says why the run ends.
            if what.exc_value is None or what.exc_value is not self.stopped_by:
                hook(what)

        handler, hook = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
        sys.unraisablehook = report_unraisable
        self.ranks.interruptible = True
        try:
            yield
        except BaseException as error:
            # A library may turn `stopped_by` into an ImportError, or into a Rust panic, which is a BaseException.
            if self.stopped_by is None or isinstance(error, BatchrouteError):
                raise
            raise self.stopped_by from None
        finally:
            self.ranks.interruptible = False
            sys.unraisablehook = hook
            signal.signal(signal.SIGTERM, handler)

    def _may_handle_sigterm(self) -> bool:
        """Python lets the main thread alone set handlers."""
        if self.own_process:
            return True
        in_main = threading.current_thread() is threading.main_thread()
        return in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class _LocalWorkers:
    """The workers of this process: one worker that threads share, or one worker for each thread."""

    def __init__(
        self,
        engine: LocalEngine,
        run: Run,
        make_worker: Callable[[Any], Worker],
        shared: bool,
        threads: int,
        gpus: int | None,
    ) -> None:
        self._engine, self._run, self._make_worker, self._threads = engine, run, make_worker, threads
        # Rank 0 alone does units that are not shared.
        self._ranks = engine.ranks if shared else Ranks(World())
        # A rank without GPUs takes no units: the other ranks' models are spread over all GPUs.
        self._takes_no_units = engine.gpus(gpus) == [] if shared else not engine.ranks.is_rank_zero
        self._worker: Worker | None = None

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def run(
        self, stage: str, units: Sequence[Unit], about: About = nothing_more, guard: BudgetGuard | None = None
    ) -> None:
        if self._takes_no_units or not units:
            return
        done = self._run.work.stage(stage).receipts()
        agreed = self._ranks.done_at_start(stage, done)
        done = {name: receipt for name, receipt in done.items() if name in agreed}
        if self._ranks.alone:
            units = [unit for unit in units if unit.unit not in done]
            if not units:
                return
        pending = [unit for unit in units if unit.unit not in done]
        with self._engine.progress.stage(stage, len(pending) + len(done), list(done.values()), about) as report:
            claims = Claims(self._ranks, stage, units, done, report, guard, self._claim_size(len(units)))
            if self._threads > 1:
                self._run_in_threads(stage, claims, report, [], self._threads)
            else:
                self._run_units(stage, claims, report)
            claims.wait()

    def _run_units(self, stage: str, claims: Claims, report: Report) -> None:
        while units := claims.take():
            for unit in units:
                self._engine.check()
                # Before the model is loaded, which may take minutes.
                claims.begin(unit)
                if self._worker is None:
                    self._worker = self._make_worker(self._run)
                if self._worker.units_at_once > 1:
                    self._run_in_threads(stage, claims, report, units, self._worker.units_at_once)
                    return
                receipt = self._worker.do(stage, unit)
                claims.end(unit, receipt)
                report(receipt)
                claims.sync()

    def _run_in_threads(self, stage: str, claims: Claims, report: Report, claimed: list[Unit], threads: int) -> None:
        """Do units in several threads, which share the worker if it exists, and otherwise make one each.

        A StoppedError lets the running units finish, since they are half done and may be paid for. Any other error
        closes the shared worker, which ends the running units at once.

        Args:
            claimed: units that are claimed already; the guard has let the first one start.
        """
        results: queue.SimpleQueue[Receipt | BaseException | None] = queue.SimpleQueue()
        stopped = threading.Event()

        def work(units: list[Unit]) -> None:
            worker = self._worker
            may_start = bool(units)
            try:
                worker = worker or self._make_worker(self._run)
                while units := units or claims.take():
                    while units and not stopped.is_set():
                        unit = units.pop(0)
                        if not may_start and not claims.begin(unit, stopped.is_set):
                            break
                        may_start = False
                        receipt = worker.do(stage, unit)
                        claims.end(unit, receipt)
                        results.put(receipt)
                    if stopped.is_set():
                        break
                results.put(None)
            except BaseException as error:
                results.put(error)
            finally:
                if worker is not None and worker is not self._worker:
                    worker.close()

        with ThreadPoolExecutor(threads) as pool:
            for number in range(threads):
                pool.submit(work, claimed if number == 0 else [])
            try:
                while threads:
                    self._engine.check()
                    claims.sync()
                    with contextlib.suppress(queue.Empty):
                        result = results.get(timeout=_POLL_SECONDS)
                        if isinstance(result, BaseException):
                            raise result
                        if result is None:
                            threads -= 1
                        else:
                            report(result)
            except BaseException as error:
                stopped.set()
                if self._worker is not None and not isinstance(error, StoppedError):
                    self._worker.close()
                raise

    def _claim_size(self, units: int) -> int:
        """Threads claim consecutive units, because reading the middle of a row group reads its beginning too."""
        if self._threads == 1:
            return 1
        claims = self._threads * (1 if self._ranks.alone else _CLAIMS_PER_THREAD * self._ranks.world.size)
        return max(1, -(-units // claims))
