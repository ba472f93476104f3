"""Hits: the cache's answers to rows of a shard, as `recall` has put them into the work folder."""

from __future__ import annotations

import functools

from batchroute.costs.prices import Price
from batchroute.pipeline import layout
from batchroute.pipeline.shards.answers import Answer, hits_of
from batchroute.storage.units import Stage
from batchroute.storage.workdir import Workdir


def hit_stage(work: Workdir, shard: str) -> Stage:
    return work.stage(f"{layout.CACHED}/{shard}")


class Hits:
    """The hits of one shard. They are the same for all attempts, ranks and machines of a run."""

    def __init__(self, work: Workdir, shard: str, price: Price | None) -> None:
        self._work, self._shard, self._price = work, shard, price

    @functools.cached_property
    def units(self) -> dict[str, int]:
        """The units that have any, and how many."""
        recalled = self._work.read_json(layout.RECALLED.format(shard=self._shard)) or {"units": {}}
        units: dict[str, int] = recalled["units"]
        return units

    def of(self, unit: str) -> dict[int, Answer]:
        """The answers by position."""
        if unit not in self.units:
            return {}
        return hits_of(hit_stage(self._work, self._shard).read(unit), self._price)
