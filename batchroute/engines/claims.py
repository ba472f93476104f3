"""Claims: which units of a stage this process does, and what it knows of those that others do."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from batchroute.engines.base import BudgetGuard, Unit
from batchroute.engines.ranks.engine import Ranks
from batchroute.progress import Report
from batchroute.storage.receipts import Receipt


class Claims:
    """The units of one stage, taken from the counter that all ranks share. Used by all threads of this process.

    Every unit is announced once by the rank that claims it, done now or before: so the first rank knows when all are.
    """

    def __init__(
        self,
        ranks: Ranks,
        stage: str,
        units: Sequence[Unit],
        done: Mapping[str, Receipt],
        report: Report,
        guard: BudgetGuard | None = None,
        stretch: int = 1,
    ) -> None:
        """
        Args:
            units: all of the stage, the same in each rank, in the same order.
            done: the receipts that there are.
            report: told of each unit that gets done; on the first rank of all of them.
            stretch: how many units, one after the other, are claimed at a time.
        """
        self._ranks, self._stage, self._units, self._done = ranks, stage, units, dict(done)
        self._report, self._guard, self._stretch = report, guard, stretch
        self._lock = threading.Lock()
        self._numbers = ranks.claims(stage, -(-len(units) // stretch))
        self._by_name = {unit.unit: unit for unit in units}
        self._mine: set[str] = set()
        self._announced = 0
        self._reserved = 0

    def take(self) -> list[Unit]:
        """The next units to do; none when all are claimed."""
        with self._lock:
            for number in self._numbers:
                claimed = self._units[number * self._stretch : (number + 1) * self._stretch]
                for unit in claimed:
                    if unit.unit in self._done:
                        self._ranks.announce(self._stage, self._done[unit.unit])
                self._reserve(number * self._stretch)
                pending = [unit for unit in claimed if unit.unit not in self._done]
                self._mine.update(unit.unit for unit in pending)
                if pending:
                    return pending
        return []

    def begin(self, unit: Unit) -> None:
        """Raises:
        StoppedError: the gate does not let it begin.
        """
        if self._guard is not None:
            self.hear()
            self._guard.before(self._stage, unit)

    def end(self, unit: Unit, receipt: Receipt) -> None:
        self._ranks.announce(self._stage, receipt)
        if self._guard is not None:
            self._guard.after(self._stage, unit, receipt)

    def hear(self) -> None:
        """Take in what the other ranks have announced."""
        if self._ranks.alone or not (self._ranks.first or self._guard is not None):
            return
        with self._lock:
            for receipt in self._ranks.announced(self._stage):
                self._announced += 1
                name = receipt.unit
                if name in self._mine or name in self._done:
                    continue
                self._done[name] = receipt
                if self._guard is not None:
                    self._guard.after(self._stage, self._by_name[name], receipt)
                self._report(receipt)

    def wait(self) -> None:
        """On the first rank, until all units of all ranks are done."""
        while self._ranks.first and not self._ranks.alone and self._announced < len(self._units):
            self.hear()
            self._ranks.pause()

    def _reserve(self, before: int) -> None:
        """Others are at the units before this one that nobody has announced: the counter hands them out in order."""
        if self._guard is None:
            return
        for unit in self._units[self._reserved : before]:
            if unit.unit not in self._done and unit.unit not in self._mine:
                self._guard.reserve(self._stage, unit)
        self._reserved = before
