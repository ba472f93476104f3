"""Claims: each unit goes to one rank, and every rank's guard adds up the units of all ranks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from batchroute.engines.claims import Claims
from batchroute.engines.ranks.engine import Ranks
from batchroute.engines.ranks.store import MemoryStore
from batchroute.engines.ranks.world import World
from batchroute.storage.receipts import Receipt


@dataclass(frozen=True)
class Piece:
    unit: str


PIECES = [Piece(f"{number:05d}") for number in range(40)]


@dataclass
class Ledger:
    """A guard that records its calls."""

    begun: list[str] = field(default_factory=list)
    reserved: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)

    def before(self, stage: str, unit: Piece) -> bool:
        self.begun.append(unit.unit)
        return True

    def reserve(self, stage: str, unit: Piece) -> None:
        self.reserved.append(unit.unit)

    def after(self, stage: str, unit: Piece, receipt: Receipt) -> None:
        assert receipt.unit == unit.unit
        self.taken.append(unit.unit)


def receipt(unit: str) -> Receipt:
    return Receipt(
        run_id="run", unit=unit, rows=1, first=0, last=0, seconds=0, file="f", bytes=1, sha256="", attempt="", at=""
    )


def ranks_of(size: int) -> list[Ranks]:
    store = MemoryStore()
    return [Ranks(World(rank, size, rank, size, "127.0.0.1:1"), store) for rank in range(size)]


def claims_of(ranks: Ranks, done: list[str], guard: Ledger, claim_size: int = 1) -> tuple[Claims, list[str]]:
    """Claims, and the units of other ranks that this rank reports."""
    reported: list[str] = []
    before = {unit: receipt(unit) for unit in done}
    return Claims(ranks, "small", PIECES, before, lambda of: reported.append(of.unit), guard, claim_size), reported


@pytest.mark.parametrize("claim_size", [1, 3, 100])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_threads_of_all_ranks_take_each_pending_unit_once(size: int, claim_size: int) -> None:
    done, guards = ["00000", "00007", "00039"], [Ledger() for _ in range(size)]
    claims = [claims_of(ranks, done, guard, claim_size)[0] for ranks, guard in zip(ranks_of(size), guards, strict=True)]
    taken: list[str] = []

    def work(mine: Claims) -> None:
        while units := mine.take():
            for unit in units:
                mine.begin(unit)  # type: ignore[arg-type]
                taken.append(unit.unit)
                mine.end(unit, receipt(unit.unit))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in claims for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pending = [piece.unit for piece in PIECES if piece.unit not in done]
    assert sorted(taken) == pending
    for mine, guard in zip(claims, guards, strict=True):
        mine.sync()
        assert sorted(guard.taken) == pending


def test_a_guard_knows_other_ranks_units_before_the_next_one_begins() -> None:
    (one, guard), (two, _) = [
        (claims_of(ranks, ["00000"], guard)[0], guard)
        for ranks, guard in zip(ranks_of(2), [Ledger(), Ledger()], strict=True)
    ]
    (first,), (second,) = one.take(), two.take()
    assert (first.unit, second.unit) == ("00001", "00002")
    (third,) = one.take()
    one.begin(third)
    # Rank 0 does not know whether 00002 is done: its cost is reserved.
    assert (guard.reserved, guard.taken) == (["00002"], [])
    two.end(second, receipt(second.unit))
    one.begin(first)
    assert guard.taken == ["00002"]


def test_rank_zero_reports_and_waits_for_the_units_of_all() -> None:
    ranks = ranks_of(2)
    (one, reported), (two, nothing) = [claims_of(each, ["00000"], Ledger()) for each in ranks]
    while units := one.take():
        one.end(units[0], receipt(units[0].unit))
        if others := two.take():
            two.end(others[0], receipt(others[0].unit))
    one.wait()
    assert sorted(reported) == [f"{number:05d}" for number in range(2, 40, 2)]
    assert nothing == []


def test_what_was_done_at_the_start_is_what_the_quickest_rank_found() -> None:
    one, two = ranks_of(2)
    assert two.done_at_start("small", ["00000"]) == {"00000"}
    # Rank 1 has done 00001 meanwhile.
    assert one.done_at_start("small", ["00000", "00001"]) == {"00000"}
    for ranks in (one, two):
        next(ranks.claims("small", 2))
    # The stage begins again.
    assert one.done_at_start("small", ["00000", "00001"]) == two.done_at_start("small", []) == {"00000", "00001"}


def test_ranks_wait_at_a_barrier_and_share_what_rank_zero_broadcasts() -> None:
    ranks, values = ranks_of(3), []

    def take_part(one: Ranks) -> None:
        one.barrier()
        values.append(one.broadcast(lambda: {"rank": one.world.rank}))
        one.barrier()
        values.append(one.broadcast(lambda: one.world.rank + 10))

    threads = [threading.Thread(target=take_part, args=(one,)) for one in ranks]
    for thread in threads[1:]:
        thread.start()
    threads[1].join(0.3)
    assert values == []
    threads[0].start()
    for thread in threads:
        thread.join(120)
    assert values.count({"rank": 0}) == values.count(10) == 3
