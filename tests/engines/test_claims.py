"""Claims: each unit is one rank's, and every rank's gate knows what all of them took."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from batchroute.engines.claims import Claims
from batchroute.engines.ranks.engine import Ranks
from batchroute.engines.ranks.store import Memory
from batchroute.engines.ranks.world import World
from batchroute.storage.receipts import Receipt


@dataclass(frozen=True)
class Piece:
    unit: str


PIECES = [Piece(f"{number:05d}") for number in range(40)]


@dataclass
class Ledger:
    """A gate that keeps book."""

    begun: list[str] = field(default_factory=list)
    reserved: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)

    def before(self, stage: str, unit: Piece) -> None:
        self.begun.append(unit.unit)

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
    store = Memory()
    return [Ranks(World(rank, size, rank, size, "127.0.0.1:1"), store) for rank in range(size)]


def claims_of(ranks: Ranks, done: list[str], guard: Ledger, stretch: int = 1) -> tuple[Claims, list[str]]:
    """With what the rank reports of other ranks' units."""
    reported: list[str] = []
    before = {unit: receipt(unit) for unit in done}
    return Claims(ranks, "small", PIECES, before, lambda of: reported.append(of.unit), guard, stretch), reported


@pytest.mark.parametrize("stretch", [1, 3, 100])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_threads_of_all_ranks_take_each_pending_unit_once(size: int, stretch: int) -> None:
    done, gates = ["00000", "00007", "00039"], [Ledger() for _ in range(size)]
    claims = [claims_of(ranks, done, guard, stretch)[0] for ranks, guard in zip(ranks_of(size), gates, strict=True)]
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
    for mine, guard in zip(claims, gates, strict=True):
        mine.hear()
        assert sorted(guard.taken) == pending


def test_a_gate_hears_of_other_ranks_units_before_the_next_one_begins() -> None:
    (one, guard), (two, _) = [
        (claims_of(ranks, ["00000"], guard)[0], guard)
        for ranks, guard in zip(ranks_of(2), [Ledger(), Ledger()], strict=True)
    ]
    (first,), (second,) = one.take(), two.take()
    assert (first.unit, second.unit) == ("00001", "00002")
    (third,) = one.take()
    one.begin(third)
    # Whether it is done nobody knows: so it is reckoned with.
    assert (guard.reserved, guard.taken) == (["00002"], [])
    two.end(second, receipt(second.unit))
    one.begin(first)
    assert guard.taken == ["00002"]


def test_the_first_rank_reports_and_waits_for_the_units_of_all() -> None:
    ranks = ranks_of(2)
    (one, reported), (two, nothing) = [claims_of(each, ["00000"], Ledger()) for each in ranks]
    while units := one.take():
        one.end(units[0], receipt(units[0].unit))
        if others := two.take():
            two.end(others[0], receipt(others[0].unit))
    one.wait()
    assert sorted(reported) == [f"{number:05d}" for number in range(2, 40, 2)]
    assert nothing == []


def test_what_was_done_before_is_what_the_quickest_rank_found() -> None:
    one, two = ranks_of(2)
    assert two.before("small", ["00000"]) == {"00000"}
    # Done meanwhile, by the quicker one.
    assert one.before("small", ["00000", "00001"]) == {"00000"}
    for ranks in (one, two):
        next(ranks.claims("small", 2))
    # The stage begins again.
    assert one.before("small", ["00000", "00001"]) == two.before("small", []) == {"00000", "00001"}


def test_ranks_meet_and_share_what_the_first_one_finds() -> None:
    ranks, found = ranks_of(3), []

    def take_part(one: Ranks) -> None:
        one.barrier()
        found.append(one.broadcast(lambda: {"rank": one.world.rank}))
        one.barrier()
        found.append(one.broadcast(lambda: one.world.rank + 10))

    threads = [threading.Thread(target=take_part, args=(one,)) for one in ranks]
    for thread in threads[1:]:
        thread.start()
    threads[1].join(0.3)
    assert found == []
    threads[0].start()
    for thread in threads:
        thread.join(10)
    assert found.count({"rank": 0}) == found.count(10) == 3
