"""What an engine is: it lets workers carry out the units of a stage, wherever it has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from batchroute.progress import About, Progress, nothing_more
from batchroute.storage.receipts import Receipt
from batchroute.storage.workdir import Workdir

if TYPE_CHECKING:
    import torch

Pool = Literal["router", "small", "large", "merge"]
"""What workers are of one kind, so that an engine may have a pool of machines for them."""


class Unit(Protocol):
    """A unit of work, known by its name; the same in every process of a run."""

    @property
    def unit(self) -> str: ...


class Worker(Protocol):
    """Carries out units of one kind, with what it has loaded for them.

    Attributes:
        units_at_once: how many to carry out side by side, from as many threads.
    """

    @property
    def units_at_once(self) -> int: ...

    def do(self, stage: Any, unit: Any) -> Receipt: ...

    def close(self) -> None:
        """Safe from another thread: units in hand end at once, by an exception or their receipt."""
        ...


class BudgetGuard(Protocol):
    """Lets units begin, and counts what they took."""

    def before(self, stage: Any, unit: Any) -> None:
        """Raises:
        StoppedError: the unit must not begin.
        """
        ...

    def reserve(self, stage: Any, unit: Any) -> None:
        """Another worker is at it."""
        ...

    def after(self, stage: Any, unit: Any, receipt: Receipt) -> None: ...


class Run(Protocol):
    """The run whose units are carried out."""

    @property
    def work(self) -> Workdir: ...


class ElsewhereRun(Run, Protocol):
    """A run that other processes can take part in."""

    def elsewhere(self) -> Callable[[Any], Run]:
        """Makes this run in another process, given the engine of that process; can be pickled."""
        ...


class Workers(Protocol):
    """The workers of one kind. What they load stays loaded from one stage to the next."""

    def run(
        self, stage: str, units: Sequence[Unit], about: About = nothing_more, guard: BudgetGuard | None = None
    ) -> None:
        """Do all units of a stage that have no receipt yet.

        Args:
            units: all of the stage, done or not.
            about: what else a log collector is told of a unit.

        Raises:
            Terminated: SIGTERM arrived.
            BatchrouteError: a worker's, or the gate's.
        """
        ...


class Engine(Protocol):
    @property
    def progress(self) -> Progress: ...

    @property
    def device(self) -> torch.device:
        """The accelerator of this process, or the CPU."""
        ...

    def gpus(self, each: int | None) -> list[int] | None:
        """Numbers of the GPUs of this process, for a worker that needs so many; None for whatever is there."""
        ...

    def workers(
        self, run: Any, make_worker: Callable[[Any], Worker], pool: Pool | None, threads: int = 1, gpus: int | None = 1
    ) -> AbstractContextManager[Workers]:
        """Workers of one kind, none of which is made before there is something to do.

        Args:
            recruit: makes one, of a run; has no state of its own, so that it can be called anywhere.
            pool: None for what one process alone must do, such as asking an endpoint that allows so many requests.
            threads: workers in one process, each with a thread and a stretch of the units.
            gpus: of each worker, where there are some; None for all of its machine.
        """
        ...

    def on_rank_zero(self, do: Callable[[], object]) -> None:
        """Let one process do this for all, while the others wait."""
        ...

    def broadcast(self, find: Callable[[], Any]) -> Any:
        """What one process finds, for all of them: a value that JSON can hold."""
        ...

    def barrier(self) -> None:
        """Wait until every process has done its part of the stage."""
        ...

    def overlapped(self, do: Callable[[], object]) -> AbstractContextManager[None]:
        """Within, and where there are machines to spare, begin what would come later, and end it with the context."""
        ...

    def check(self) -> None:
        """Raises:
        Terminated: SIGTERM arrived.
        BatchrouteError: another process has ended the run.
        """
        ...

    def terminable(self) -> AbstractContextManager[None]:
        """Within, SIGTERM raises `Terminated` where the main thread stands."""
        ...
