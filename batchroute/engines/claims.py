"""Claims: which units of a stage this rank does, and which units the other ranks have done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from batchroute.engines.base import BudgetGuard, Unit
from batchroute.engines.ranks.engine import Ranks
from batchroute.progress import Report
from batchroute.storage.receipts import Receipt


class Claims:
    """The units of one stage, claimed from a counter that all ranks share. All threads of this rank use one object.

    The rank that claims a unit publishes its receipt once, even if the unit was done before: so rank 0 can count
    receipts to know when the stage is done.
    """

    def __init__(
        self,
        ranks: Ranks,
        stage: str,
        units: Sequence[Unit],
        done: Mapping[str, Receipt],
        report: Report,
        guard: BudgetGuard | None = None,
        claim_size: int = 1,
    ) -> None:
        """
        Args:
            units: all units of the stage, in the same order on every rank.
            done: the receipts that exist.
            report: called on rank 0 for each unit that another rank has done.
            claim_size: number of consecutive units in a claim.
        """
        self._ranks, self._stage, self._units, self._done = ranks, stage, units, dict(done)
        self._report, self._guard, self._claim_size = report, guard, claim_size
        self._lock = threading.Lock()
        self._numbers = ranks.claims(stage, -(-len(units) // claim_size))
        self._by_name = {unit.unit: unit for unit in units}
        self._claimed_here: set[str] = set()
        self._published = 0
        self._reserved = 0

    def take(self) -> list[Unit]:
        """Claim the next units that are not done; empty when all units are claimed."""
        with self._lock:
            for number in self._numbers:
                claimed = self._units[number * self._claim_size : (number + 1) * self._claim_size]
                for unit in claimed:
                    if unit.unit in self._done:
                        self._ranks.publish(self._stage, self._done[unit.unit])
                self._reserve(number * self._claim_size)
                pending = [unit for unit in claimed if unit.unit not in self._done]
                self._claimed_here.update(unit.unit for unit in pending)
                if pending:
                    return pending
        return []

    def begin(self, unit: Unit, is_stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the guard lets the unit start; False if the stage is stopped meanwhile.

        Raises:
            StoppedError: the guard does not let the unit start at all.
        """
        while self._guard is not None and not is_stopped():
            self.sync()
            if self._guard.before(self._stage, unit):
                return True
            self._ranks.pause()
        return not is_stopped()

    def end(self, unit: Unit, receipt: Receipt) -> None:
        self._ranks.publish(self._stage, receipt)
        if self._guard is not None:
            self._guard.after(self._stage, unit, receipt)

    def sync(self) -> None:
        """Read the receipts that other ranks have published. Only rank 0 and guards need them."""
        if self._ranks.alone or not (self._ranks.is_rank_zero or self._guard is not None):
            return
        with self._lock:
            for receipt in self._ranks.new_receipts(self._stage):
                self._published += 1
                name = receipt.unit
                if name in self._claimed_here or name in self._done:
                    continue
                self._done[name] = receipt
                if self._guard is not None:
                    self._guard.after(self._stage, self._by_name[name], receipt)
                self._report(receipt)

    def wait(self) -> None:
        """On rank 0, wait until all ranks have done all units. Other ranks return at once."""
        while self._ranks.is_rank_zero and not self._ranks.alone and self._published < len(self._units):
            self.sync()
            self._ranks.pause()

    def _reserve(self, before: int) -> None:
        """Reserve the cost of unfinished units below index `before`: the counter goes up, so other ranks do them."""
        if self._guard is None:
            return
        for unit in self._units[self._reserved : before]:
            if unit.unit not in self._done and unit.unit not in self._claimed_here:
                self._guard.reserve(self._stage, unit)
        self._reserved = before
