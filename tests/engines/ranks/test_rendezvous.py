"""The rendezvous: which ranks are connected, which are gone, and what the other ranks hear of it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from batchroute.engines.ranks.rendezvous import Ending, Rendezvous
from tests.crash import forking
from tests.support.waiting import wait_for

HOST, TOKEN = "127.0.0.1", "a token"


class Three:
    """A world of three ranks in one process."""

    def __init__(self) -> None:
        self.heard: list[list[Ending]] = [[], [], []]
        self.ends = [Rendezvous(rank, 3, self.heard[rank].append) for rank in range(3)]
        self.first, self.second, self.third = self.ends
        self.port = self.first.open(HOST, TOKEN)

    def come(self) -> None:
        for end in (self.second, self.third):
            end.enter(HOST, self.port, TOKEN, 60)
        wait_for(lambda: not self.first.missing())

    def leave(self, codes: list[int]) -> list[int]:
        """All ranks leave at once."""
        final = dict.fromkeys(range(3), -1)

        def leave(rank: int) -> None:
            final[rank] = self.ends[rank].leave(codes[rank])

        threads = [threading.Thread(target=leave, args=(rank,)) for rank in (2, 1, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return list(final.values())


@pytest.fixture
def ranks() -> Iterator[Three]:
    three = Three()
    yield three
    for end in three.ends:
        end.close()


def test_ranks_that_have_come_are_known_and_leave_in_order_with_rank_zeros_exit_code(ranks: Three) -> None:
    assert ranks.first.missing() == [1, 2]
    ranks.come()
    assert ranks.leave([1, 0, 0]) == [1, 1, 1]
    assert ranks.heard == [[], [], []]


def test_what_ends_one_rank_is_heard_by_all_others_once(ranks: Three) -> None:
    ranks.come()
    ranks.third.end(2, "no column 'x'")
    wait_for(lambda: ranks.heard[0] and ranks.heard[1])
    ranks.second.end(3, "too late")
    ending = Ending(2, 2, "no column 'x'")
    assert ranks.heard == [[ending], [ending], []]
    assert ranks.leave([2, 2, 2]) == [2, 2, 2]


def _be_first(ports: Any) -> None:
    ports.put(Rendezvous(0, 3, lambda ending: None).open(HOST, TOKEN))
    threading.Event().wait(60)


@pytest.mark.parametrize("leaving", [False, True])
def test_the_death_of_rank_zero_is_heard_by_the_others(ranks: Three, leaving: bool) -> None:
    """Also by a rank that has done its part and waits for the end of the run."""
    ports = forking.results()
    process = forking.in_process(_be_first, ports)
    port = ports.get(timeout=120)
    others = (ranks.second, ranks.third)
    for end in others:
        end.enter(HOST, port, TOKEN, 60)
    threads = [threading.Thread(target=end.leave, args=(0,)) for end in others if leaving]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert ranks.heard == [[], [], []]
    process.kill()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    wait_for(lambda: ranks.heard[1] and ranks.heard[2])
    ending = Ending(0, 3, "rank 0 of 3 died", died=True)
    assert ranks.heard[1:] == [[ending], [ending]]


def _come_and_die(port: int) -> None:
    Rendezvous(1, 3, lambda ending: None).enter(HOST, port, TOKEN, 60)
    threading.Event().wait(60)


def test_the_death_of_a_process_is_heard_by_all(ranks: Three) -> None:
    process = forking.in_process(_come_and_die, ranks.port)
    ranks.third.enter(HOST, ranks.port, TOKEN, 60)
    wait_for(lambda: not ranks.first.missing())
    process.kill()
    wait_for(lambda: ranks.heard[0] and ranks.heard[2])
    ending = Ending(1, 3, "rank 1 of 3 died", died=True)
    assert ranks.heard == [[ending], [], [ending]]


@pytest.mark.parametrize(
    "hello",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"x" * 70_000,
        json.dumps({"rank": 1, "token": "another"}).encode() + b"\n",
        json.dumps({"rank": 1, "token": None}).encode() + b"\n",
        json.dumps({"rank": 1, "token": "\u00e9"}).encode() + b"\n",
        json.dumps({"rank": 0, "token": TOKEN}).encode() + b"\n",
        json.dumps({"rank": 3, "token": TOKEN}).encode() + b"\n",
        json.dumps({"rank": None, "token": TOKEN}).encode() + b"\n",
        b"",
    ],
)
def test_strangers_are_turned_away_and_do_no_harm(ranks: Three, hello: bytes) -> None:
    # Rank 0 may close the connection at the first byte.
    with socket.create_connection((HOST, ranks.port)) as stranger, contextlib.suppress(OSError):
        stranger.sendall(hello)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(1) == b""
    assert ranks.first.missing() == [1, 2]
    ranks.come()
    assert ranks.leave([0, 0, 0]) == [0, 0, 0]
    assert ranks.heard == [[], [], []]


def test_a_rank_that_is_there_is_not_replaced_by_another_of_its_number(ranks: Three) -> None:
    ranks.come()
    heard: list[Ending] = []
    twin = Rendezvous(1, 3, heard.append)
    twin.enter(HOST, ranks.port, TOKEN, 60)
    wait_for(lambda: heard)
    assert heard[0].rank == 0
    assert ranks.leave([0, 0, 0]) == [0, 0, 0]
    assert ranks.heard == [[], [], []]


def test_a_rank_zero_that_is_not_there_is_an_error() -> None:
    with socket.create_server((HOST, 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        Rendezvous(1, 2, lambda ending: None).enter(HOST, port, TOKEN, 60)
