"""The local engine: units in this process, on its accelerator, shared with the other ranks where there are some."""

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

_SECONDS_BETWEEN_LOOKS = 0.5
# Of a rank's threads: enough that a slow one holds up nobody for long.
_SHARES = 4


class LocalEngine:
    """Carries units out in their order. SIGTERM drops the unit in hand: it was never committed, so nothing is lost."""

    def __init__(self, progress: Progress, ranks: Ranks | None = None) -> None:
        self.progress = progress
        self.ranks = ranks or Ranks(World())
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
        if self.ranks.first:
            do()
        self.ranks.barrier()

    def broadcast(self, find: Callable[[], Any]) -> Any:
        return self.ranks.broadcast(find)

    def barrier(self) -> None:
        self.ranks.barrier()

    @contextmanager
    def overlapped(self, do: Callable[[], object]) -> Iterator[None]:
        """Nothing: a process has one accelerator, and room for one model."""
        yield

    def check(self) -> None:
        # Where the handler's own exception was swallowed.
        if self.stopped_by is not None:
            raise self.stopped_by
        self.ranks.check()

    @contextmanager
    def terminable(self) -> Iterator[None]:
        def stop(signum: int, frame: FrameType | None) -> None:
            # Kept as well: an exception raised inside a destructor or a callback is swallowed by Python.
            self.stopped_by = self.ranks.told_to_stop()
            raise self.stopped_by

        def swallowed(what: sys.UnraisableHookArgs) -> None:
            # No news, and its traceback would bury the sentence that says why the run ends.
            if what.exc_value is None or what.exc_value is not self.stopped_by:
                hook(what)

        before, hook = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
        sys.unraisablehook = swallowed
        self.ranks.interruptible = True
        try:
            yield
        except BaseException as error:
            # What a library makes of it: an error of an import, or a panic of Rust's, which is no Exception.
            if self.stopped_by is None or isinstance(error, BatchrouteError):
                raise
            raise self.stopped_by from None
        finally:
            self.ranks.interruptible = False
            sys.unraisablehook = hook
            signal.signal(signal.SIGTERM, before)


class _LocalWorkers:
    """The workers of this process: one, which several threads may use, or one for each of several threads."""

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
        # What is not shared is all the first rank's.
        self._ranks = engine.ranks if shared else Ranks(World())
        # A rank without GPUs of its own waits for those whose model is spread over them.
        self._idle = engine.gpus(gpus) == [] if shared else not engine.ranks.first
        self._worker: Worker | None = None

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def run(
        self, stage: str, units: Sequence[Unit], about: About = nothing_more, guard: BudgetGuard | None = None
    ) -> None:
        if self._idle or not units:
            return
        done = self._run.work.stage(stage).receipts()
        before = self._ranks.before(stage, done)
        done = {name: receipt for name, receipt in done.items() if name in before}
        if self._ranks.alone:
            units = [unit for unit in units if unit.unit not in done]
            if not units:
                return
        pending = [unit for unit in units if unit.unit not in done]
        with self._engine.progress.stage(stage, len(pending) + len(done), list(done.values()), about) as report:
            claims = Claims(self._ranks, stage, units, done, report, guard, self._stretch(len(units)))
            if self._threads > 1:
                self._beside(stage, claims, report, [], self._threads)
            else:
                self._run_units(stage, claims, report)
            claims.wait()

    def _run_units(self, stage: str, claims: Claims, report: Report) -> None:
        while units := claims.take():
            for unit in units:
                self._engine.check()
                # Before anything is loaded: that may take minutes.
                claims.begin(unit)
                if self._worker is None:
                    self._worker = self._make_worker(self._run)
                if self._worker.units_at_once > 1:
                    self._beside(stage, claims, report, units, self._worker.units_at_once)
                    return
                receipt = self._worker.do(stage, unit)
                claims.end(unit, receipt)
                report(receipt)
                claims.hear()

    def _beside(self, stage: str, claims: Claims, report: Report, begun: list[Unit], threads: int) -> None:
        """In `threads` threads, with the worker that all of them share, or else one for each.

        Units in hand are made to end when this ends early; they are carried out first when one of them stops the run,
        since they are half done and may be paid for.

        Args:
            begun: already claimed.
        """
        results: queue.SimpleQueue[Receipt | BaseException | None] = queue.SimpleQueue()
        stopped = threading.Event()

        def work(units: list[Unit], begun: bool) -> None:
            worker = self._worker
            try:
                worker = worker or self._make_worker(self._run)
                while units := units or claims.take():
                    while units and not stopped.is_set():
                        unit = units.pop(0)
                        if not begun:
                            claims.begin(unit)
                        begun = False
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
                pool.submit(work, begun if number == 0 else [], bool(begun) and number == 0)
            try:
                while threads:
                    self._engine.check()
                    claims.hear()
                    with contextlib.suppress(queue.Empty):
                        result = results.get(timeout=_SECONDS_BETWEEN_LOOKS)
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

    def _stretch(self, units: int) -> int:
        """Several threads take units that follow one another, since a row group is read from its beginning."""
        if self._threads == 1:
            return 1
        shares = self._threads * (1 if self._ranks.alone else _SHARES * self._ranks.world.size)
        return max(1, -(-units // shares))
