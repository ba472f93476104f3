"""Limits: how much a run may cost and how many tokens it may use, checked before each unit.

A unit begins only if its expected cost still fits. Once a shard has shown what its rows cost, the whole run is
projected too: a run that would end above its limit stops at once, and not when the money is spent.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, field

from batchroute import words
from batchroute.config.job import Job
from batchroute.costs import prices
from batchroute.costs.prices import Price
from batchroute.errors import StoppedError
from batchroute.pipeline import layout
from batchroute.pipeline.context import Snapshot
from batchroute.pipeline.shards.writer import SHARDS, Shard, shard_stage, side_of
from batchroute.storage.receipts import Receipt
from batchroute.storage.workdir import Workdir

_TOKENS = ("input_tokens", "output_tokens", "sample_input_tokens", "sample_output_tokens")
# A projection needs at least this many answered rows of a shard.
_EVIDENCE_ROWS = 200

_Begun = dict[tuple[Shard, str], tuple[Receipt, tuple[int, int] | None]]
"""Units with an upper bound of their cost and tokens, used until the shard's real costs are known."""


@dataclass
class _Tally:
    """The cost and tokens of a shard so far. `prompt_tokens` and `left` count by the router's tokenizer."""

    cost: int = 0
    tokens: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    left: dict[str, int] = field(default_factory=dict)

    def add(self, receipt: Receipt, prompt_tokens: int, price: Price | None) -> None:
        self.cost += cost_of(receipt, price)
        self.tokens += tokens_of(receipt)
        self.rows += receipt.counts["generated"]
        self.prompt_tokens += prompt_tokens

    def expected(self, prompt_tokens: int) -> tuple[int, int]:
        """Pico-dollars and tokens that this many more prompt tokens will take; 0 while no unit is done."""
        if not self.prompt_tokens:
            return 0, 0
        return self.cost * prompt_tokens // self.prompt_tokens, self.tokens * prompt_tokens // self.prompt_tokens


class JobLimits:
    """`max_cost` and `max_tokens` of a job, and how much a run has used. All threads that run units share it."""

    def __init__(self, job: Job, snapshot: Snapshot, work: Workdir) -> None:
        self._job, self._snapshot = job, snapshot
        self._lock = threading.Lock()
        # Units, not amounts: the expected cost of a unit gets better as other units of its shard end.
        self._reserved: _Begun = {}
        self._router = self._router_cost(work.stage(layout.SCORE).receipts().values())
        self._tallies: dict[Shard, _Tally] = {}
        for shard in SHARDS:
            tally = self._tallies[shard] = _Tally()
            done = work.stage(shard).receipts()
            for unit, piece in shard_stage(work, shard).receipts().items():
                if unit in done:
                    tally.add(done[unit], piece.counts["tokens"], self._snapshot.price(side_of(shard)))
                else:
                    tally.left[unit] = piece.counts["tokens"]

    def before(self, shard: Shard, piece: Receipt, at_most: tuple[int, int] | None = None) -> None:
        """Reserve the expected cost and tokens of the piece.

        Args:
            at_most: pico-dollars and tokens, used while no unit of the shard is done.

        Raises:
            StoppedError: with this piece, or by the projection of the whole run, a limit would be exceeded.
        """
        if self._job.max_cost is None and self._job.max_tokens is None:
            return
        with self._lock:
            self._check({**self._reserved, (shard, piece.unit): (piece, at_most)})
            self._reserved[shard, piece.unit] = piece, at_most

    def reserve(self, shard: Shard, piece: Receipt, at_most: tuple[int, int] | None = None) -> None:
        """Reserve without a check: another worker is at the piece already."""
        with self._lock:
            self._reserved[shard, piece.unit] = piece, at_most

    def _expected(self, shard: Shard, piece: Receipt, at_most: tuple[int, int] | None) -> tuple[int, int]:
        tally = self._tallies[shard]
        if at_most is not None and not tally.prompt_tokens:
            return at_most
        return tally.expected(piece.counts["tokens"])

    def after(self, shard: Shard, piece: Receipt, committed: Receipt) -> None:
        """Count the real cost and tokens of the piece."""
        with self._lock:
            self._reserved.pop((shard, piece.unit), None)
            tally = self._tallies[shard]
            # A piece of another rank may have been counted as done at the start.
            if tally.left.pop(piece.unit, None) is not None:
                tally.add(committed, piece.counts["tokens"], self._snapshot.price(side_of(shard)))

    def _check(self, reserved: _Begun) -> None:
        spent = [self._router + sum(tally.cost for tally in self._tallies.values())]
        spent.append(sum(tally.tokens for tally in self._tallies.values()))
        expected = [self._expected(shard, *piece) for (shard, _), piece in reserved.items()]
        begun = [sum(one[i] for one in expected) for i in (0, 1)]
        left = self._left()
        guessed = any(
            at_most and not self._tallies[shard].prompt_tokens for (shard, _), (_, at_most) in reserved.items()
        )
        for i, name in enumerate(("max_cost", "max_tokens")):
            limit = self._limit(name)
            if limit is None:
                continue
            projected = spent[i] + left[i]
            over = spent[i] >= limit or spent[i] + begun[i] > limit
            if over or (projected > limit and self._has_evidence()):
                in_all = _shown(name, max(projected, spent[i] + begun[i]))
                would = f"may take up to {in_all}" if guessed else f"would take {in_all} or more"
                raise StoppedError(
                    f"{name} {_shown(name, limit)}: {_shown(name, spent[i])} taken so far, and the run {would}; "
                    f"raise {name} and run again to go on, or choose another policy"
                )

    def _left(self) -> list[int]:
        """Cost and tokens still to come, of the shards with at least one unit done."""
        expected = [tally.expected(sum(tally.left.values())) for tally in self._tallies.values()]
        return [sum(one[i] for one in expected) for i in (0, 1)]

    def _has_evidence(self) -> bool:
        begun = [tally for tally in self._tallies.values() if tally.rows and tally.left]
        return bool(begun) and all(tally.rows >= _EVIDENCE_ROWS for tally in begun)

    def _limit(self, name: str) -> int | None:
        if name == "max_tokens":
            return self._job.max_tokens
        return None if self._job.max_cost is None else prices.pico(self._job.max_cost)

    def _router_cost(self, scored: Collection[Receipt]) -> int:
        price = self._snapshot.price("router")
        if price is None:
            return 0
        if price.by_token:
            return price.of_tokens(sum(receipt.counts["tokens"] for receipt in scored), 0)
        return price.of_seconds(sum(receipt.seconds + receipt.load_seconds for receipt in scored))


def cost_of(receipt: Receipt, price: Price | None) -> int:
    """Pico-dollars of a unit. Where time has a price, they include the loading of the model."""
    loading = 0 if price is None or price.by_token else price.of_seconds(receipt.load_seconds)
    return receipt.counts["cost_pico"] + loading


def tokens_of(receipt: Receipt) -> int:
    """Of the answers and of their extra samples."""
    return sum(receipt.counts.get(name, 0) for name in _TOKENS)


def _shown(name: str, amount: int) -> str:
    return f"{amount:,}" if name == "max_tokens" else words.money(prices.usd(amount))
