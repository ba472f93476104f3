"""The engine's interface: an engine makes workers, and its workers do the units of a stage."""

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
"""The kinds of workers; an engine may keep a pool of machines for each."""


class Unit(Protocol):
    """A unit of work. Its name is the same in every process of a run."""

    @property
    def unit(self) -> str: ...


class Worker(Protocol):
    """Does units of one kind with the model that it has loaded.

    Attributes:
        units_at_once: number of units to do concurrently, each from a thread of its own.
    """

    @property
    def units_at_once(self) -> int: ...

    def do(self, stage: Any, unit: Any) -> Receipt: ...

    def close(self) -> None:
        """May be called from another thread: every running unit then ends at once, by an exception or a receipt."""
        ...


class BudgetGuard(Protocol):
    """Decides whether a unit may start, and adds up what finished units cost."""

    def before(self, stage: Any, unit: Any) -> bool:
        """Whether the unit may start now; if not, units that are in flight must end first.

        Raises:
            StoppedError: the unit must not start at all.
        """
        ...

    def reserve(self, stage: Any, unit: Any) -> None:
        """Set money and tokens aside for a unit that another worker is doing."""
        ...

    def after(self, stage: Any, unit: Any, receipt: Receipt) -> None: ...


class Run(Protocol):
    """The run that units belong to."""

    @property
    def work(self) -> Workdir: ...


class ElsewhereRun(Run, Protocol):
    """A run that other processes can join."""

    def elsewhere(self) -> Callable[[Any], Run]:
        """A picklable function that makes this run in another process, given that process's engine."""
        ...


class Workers(Protocol):
    """The workers of one kind. Their models stay loaded from one stage to the next."""

    def run(
        self, stage: str, units: Sequence[Unit], about: About = nothing_more, guard: BudgetGuard | None = None
    ) -> None:
        """Do all units of a stage that have no receipt yet.

        Args:
            units: all units of the stage, done or not.
            about: further fields for a unit's log record.

        Raises:
            Terminated: SIGTERM arrived.
            BatchrouteError: a worker or the guard raised it.
        """
        ...


class Engine(Protocol):
    @property
    def progress(self) -> Progress: ...

    @property
    def device(self) -> torch.device:
        """The accelerator of this process, or the CPU."""
        ...

    @property
    def alone(self) -> bool:
        """Whether no other process does units of the run."""
        ...

    def gpus(self, each: int | None) -> list[int] | None:
        """Indices of this process's GPUs for a worker that needs `each` of them; None: use any visible GPU."""
        ...

    def workers(
        self, run: Any, make_worker: Callable[[Any], Worker], pool: Pool | None, threads: int = 1, gpus: int | None = 1
    ) -> AbstractContextManager[Workers]:
        """Workers of one kind. Each is made when it gets its first unit.

        Args:
            make_worker: makes a worker for a run; holds no state, so that any process can call it.
            pool: None: only one process does these units, for example because an endpoint limits requests.
            threads: workers in one process, each with its own thread and consecutive units.
            gpus: GPUs for each worker, if the machine has any; None: all GPUs of its machine.
        """
        ...

    def on_rank_zero(self, do: Callable[[], object]) -> None:
        """Call `do` on rank 0; the other ranks wait until it returns."""
        ...

    def broadcast(self, compute: Callable[[], Any]) -> Any:
        """Call `compute` on rank 0 and return its result on every rank. The result must be JSON-serialisable."""
        ...

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        ...

    def overlapped(self, do: Callable[[], object]) -> AbstractContextManager[None]:
        """While the context is open, run `do`, a later stage, on free machines; leaving waits for `do` to return."""
        ...

    def check(self) -> None:
        """Raises:
        Terminated: SIGTERM arrived.
        BatchrouteError: another rank has ended the run.
        """
        ...

    def terminable(self) -> AbstractContextManager[None]:
        """While the context is open, SIGTERM raises `Terminated` in the main thread."""
        ...
