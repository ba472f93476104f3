"""The local engine: units one after another in this process, on its accelerator."""

from __future__ import annotations

import functools
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from batchroute.errors import StoppedError, Terminated
from batchroute.progress import About, Progress, nothing_more
from batchroute.storage.workdir import Receipt

if TYPE_CHECKING:
    import torch

Unit = TypeVar("Unit")


class LocalEngine:
    """Carries units out in their order. SIGTERM drops the unit in hand: it was never committed, so nothing is lost."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._terminated = False

    @functools.cached_property
    def device(self) -> torch.device:
        """The accelerator of this process, or the CPU."""
        import torch
        from accelerate import Accelerator

        # Left to itself, accelerate on a machine without a GPU ignores what a launcher says of ranks.
        device = Accelerator(cpu=not torch.cuda.is_available()).device
        assert isinstance(device, torch.device)
        return device

    def carry_out(
        self,
        stage: str,
        pending: Sequence[Unit],
        done: Sequence[Receipt],
        do: Callable[[Unit], Receipt],
        about: About = nothing_more,
    ) -> None:
        """Do all `pending` units of `stage`; `done` are those of earlier attempts, for the progress display.

        Args:
            about: what else a log collector is told of a unit.

        Raises:
            Terminated: SIGTERM arrived.
        """
        with self.progress.stage(stage, len(pending) + len(done), done, about) as report:
            for unit in pending:
                if self._terminated:
                    raise Terminated
                report(do(unit))

    def carry_out_beside(
        self,
        stage: str,
        pending: Sequence[Unit],
        done: Sequence[Receipt],
        worker: Callable[[], Callable[[Unit], Receipt]],
        threads: int,
        abort: Callable[[], None] = lambda: None,
        about: About = nothing_more,
    ) -> None:
        """As `carry_out`, in `threads` threads, each with a stretch of the units and what `worker` makes for it.

        Args:
            abort: called when it ends early; makes the units in hand end too. Without it they are carried out first,
                and so they are when a unit stops the run: they are half done, and may be paid for.

        Raises:
            Terminated: SIGTERM arrived.
        """
        threads = min(threads, len(pending))
        stretches = [pending[len(pending) * n // threads : len(pending) * (n + 1) // threads] for n in range(threads)]
        results: queue.SimpleQueue[Receipt | BaseException] = queue.SimpleQueue()
        stopped = threading.Event()

        def work(stretch: Sequence[Unit]) -> None:
            try:
                do = worker()
                for unit in stretch:
                    if stopped.is_set():
                        return
                    results.put(do(unit))
            except BaseException as error:
                results.put(error)

        units = len(pending) + len(done)
        with self.progress.stage(stage, units, done, about) as report, ThreadPoolExecutor(threads) as pool:
            for stretch in stretches:
                pool.submit(work, stretch)
            try:
                for _ in pending:
                    if self._terminated:
                        raise Terminated
                    result = results.get()
                    if isinstance(result, BaseException):
                        raise result
                    report(result)
            except BaseException as error:
                stopped.set()
                if not isinstance(error, StoppedError):
                    abort()
                raise

    @contextmanager
    def terminable(self) -> Iterator[None]:
        """Within, SIGTERM raises `Terminated` where the main thread stands."""

        def terminate(signum: int, frame: FrameType | None) -> None:
            # The flag as well: an exception raised inside a destructor or a callback is swallowed by Python.
            self._terminated = True
            raise Terminated

        before = signal.signal(signal.SIGTERM, terminate)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
