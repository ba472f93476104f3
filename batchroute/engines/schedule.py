"""The schedule: which unit a worker gets next, where one process hands them out and workers may die."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from batchroute.engines.base import Unit
from batchroute.errors import StoppedError

AnyUnit = TypeVar("AnyUnit", bound=Unit)

# One more than chance explains: an eviction may hit the same unit twice.
_MOST_DEATHS = 3


class Schedule(Generic[AnyUnit]):
    """The units of a stage that are still to be done, and who is at which. Workers are known by any key."""

    def __init__(self, stage: str, units: Sequence[AnyUnit]) -> None:
        self._stage = stage
        self._waiting = deque(units)
        self._in_hand: dict[Hashable, AnyUnit] = {}
        self._deaths: Counter[str] = Counter()

    @property
    def left(self) -> int:
        """Units that are not done."""
        return len(self._waiting) + len(self._in_hand)

    @property
    def waiting(self) -> int:
        """Units that nobody is at."""
        return len(self._waiting)

    def next(self) -> AnyUnit | None:
        """The unit that the next worker that has nothing to do gets; None when nobody is needed for more."""
        return self._waiting[0] if self._waiting else None

    def give(self, worker: Hashable) -> AnyUnit:
        """Give `next` to a worker."""
        self._in_hand[worker] = self._waiting.popleft()
        return self._in_hand[worker]

    def done(self, worker: Hashable) -> AnyUnit:
        """The worker's unit is done."""
        return self._in_hand.pop(worker)

    def lost(self, worker: Hashable, why: str) -> AnyUnit | None:
        """The worker died: its unit, which is the next one to be given, so that it does not end up last.

        Raises:
            StoppedError: it is the last of so many workers that died of this unit that it is no chance.
        """
        unit = self._in_hand.pop(worker, None)
        if unit is None:
            return None
        self._deaths[unit.unit] += 1
        if self._deaths[unit.unit] == _MOST_DEATHS:
            raise StoppedError(
                f"{_MOST_DEATHS} workers died of the unit {unit.unit} of {self._stage}: {why}; mend it, or give the "
                "workers more memory, and run again"
            )
        self._waiting.appendleft(unit)
        return unit
