"""The local engine: units one after another in this process, on its accelerator."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from batchroute.errors import Terminated
from batchroute.progress import Progress
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
        self, stage: str, pending: Sequence[Unit], done: Sequence[Receipt], do: Callable[[Unit], Receipt]
    ) -> None:
        """Do all `pending` units of `stage`; `done` are those of earlier attempts, for the progress display.

        Raises:
            Terminated: SIGTERM arrived.
        """
        with self.progress.stage(stage, len(pending) + len(done), done) as report:
            for unit in pending:
                if self._terminated:
                    raise Terminated
                report(do(unit))

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
