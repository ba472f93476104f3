"""The schedule: which unit a worker gets next, when one process assigns units and workers may die."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from batchroute.engines.base import Unit
from batchroute.errors import StoppedError

AnyUnit = TypeVar("AnyUnit", bound=Unit)

# Evictions may hit the same unit twice by chance; three deaths point to the unit.
_MOST_DEATHS = 3


class Schedule(Generic[AnyUnit]):
    """The pending units of a stage, and which worker has which unit. A worker is any hashable key."""

    def __init__(self, stage: str, units: Sequence[AnyUnit]) -> None:
        self._stage = stage
        self._waiting = deque(units)
        self._assigned: dict[Hashable, AnyUnit] = {}
        self._deaths: Counter[str] = Counter()

    @property
    def left(self) -> int:
        """Number of units that are not done."""
        return len(self._waiting) + len(self._assigned)

    @property
    def waiting(self) -> int:
        """Number of units that no worker has."""
        return len(self._waiting)

    def next(self) -> AnyUnit | None:
        """The unit that the next idle worker gets; None when every unit is assigned or done."""
        return self._waiting[0] if self._waiting else None

    def give(self, worker: Hashable) -> AnyUnit:
        """Assign the next unit to a worker."""
        self._assigned[worker] = self._waiting.popleft()
        return self._assigned[worker]

    def done(self, worker: Hashable) -> AnyUnit:
        """Mark the worker's unit as done."""
        return self._assigned.pop(worker)

    def lost(self, worker: Hashable, why: str) -> AnyUnit | None:
        """The worker died. Its unit becomes the next one, so that the stage does not end with it.

        Returns:
            The unit; None when the worker had none.

        Raises:
            StoppedError: the unit has killed three workers.
        """
        unit = self._assigned.pop(worker, None)
        if unit is None:
            return None
        self._deaths[unit.unit] += 1
        if self._deaths[unit.unit] == _MOST_DEATHS:
            raise StoppedError(
                f"{_MOST_DEATHS} workers died of the unit {unit.unit} of {self._stage}: {why}; fix its rows, or give "
                "the workers more memory, and run again"
            )
        self._waiting.appendleft(unit)
        return unit
