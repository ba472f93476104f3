"""The roll call: who is there, who has gone, and what all others hear of it."""

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
from tests.crash.ranks import wait_for

HOST, TOKEN = "127.0.0.1", "a token"


class Calls:
    """A world of three in one process."""

    def __init__(self) -> None:
        self.heard: list[list[Ending]] = [[], [], []]
        self.calls = [Rendezvous(rank, 3, self.heard[rank].append) for rank in range(3)]
        self.first, self.second, self.third = self.calls
        self.port = self.first.open(HOST, TOKEN)

    def come(self) -> None:
        for call in (self.second, self.third):
            call.enter(HOST, self.port, TOKEN, 5)
        wait_for(lambda: not self.first.missing(), 5)

    def leave(self, codes: list[int]) -> list[int]:
        """All at once."""
        found = dict.fromkeys(range(3), -1)

        def leave(rank: int) -> None:
            found[rank] = self.calls[rank].leave(codes[rank])

        threads = [threading.Thread(target=leave, args=(rank,)) for rank in (2, 1, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        return list(found.values())


@pytest.fixture
def calls() -> Iterator[Calls]:
    found = Calls()
    yield found
    for call in found.calls:
        call.close()


def test_ranks_that_have_come_are_known_and_go_in_order_with_the_first_ones_exit_code(calls: Calls) -> None:
    assert calls.first.missing() == [1, 2]
    calls.come()
    assert calls.leave([1, 0, 0]) == [1, 1, 1]
    assert calls.heard == [[], [], []]


def test_what_ends_one_rank_is_heard_by_all_others_once(calls: Calls) -> None:
    calls.come()
    calls.third.end(2, "no column 'x'")
    wait_for(lambda: calls.heard[0] and calls.heard[1], 5)
    calls.second.end(3, "too late")
    ending = Ending(2, 2, "no column 'x'")
    assert calls.heard == [[ending], [ending], []]
    assert calls.leave([2, 2, 2]) == [2, 2, 2]


def _be_first(ports: Any) -> None:
    ports.put(Rendezvous(0, 3, lambda ending: None).open(HOST, TOKEN))
    threading.Event().wait(60)


@pytest.mark.parametrize("leaving", [False, True])
def test_the_death_of_the_first_rank_is_heard_by_the_others(calls: Calls, leaving: bool) -> None:
    """Also by one that has done its part, and waits for the end of the run."""
    ports = forking.results()
    process = forking.in_process(_be_first, ports)
    port = ports.get(timeout=30)
    others = (calls.second, calls.third)
    for call in others:
        call.enter(HOST, port, TOKEN, 5)
    threads = [threading.Thread(target=call.leave, args=(0,)) for call in others if leaving]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert calls.heard == [[], [], []]
    process.kill()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    wait_for(lambda: calls.heard[1] and calls.heard[2], 5)
    ending = Ending(0, 3, "rank 0 of 3 died", died=True)
    assert calls.heard[1:] == [[ending], [ending]]


def _come_and_die(port: int) -> None:
    Rendezvous(1, 3, lambda ending: None).enter(HOST, port, TOKEN, 5)
    threading.Event().wait(60)


def test_the_death_of_a_process_is_heard_by_all(calls: Calls) -> None:
    process = forking.in_process(_come_and_die, calls.port)
    calls.third.enter(HOST, calls.port, TOKEN, 5)
    wait_for(lambda: not calls.first.missing(), 30)
    process.kill()
    wait_for(lambda: calls.heard[0] and calls.heard[2], 5)
    ending = Ending(1, 3, "rank 1 of 3 died", died=True)
    assert calls.heard == [[ending], [], [ending]]


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
def test_strangers_are_turned_away_and_do_no_harm(calls: Calls, hello: bytes) -> None:
    # It may be turned away at the first word.
    with socket.create_connection((HOST, calls.port)) as stranger, contextlib.suppress(OSError):
        stranger.sendall(hello)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(1) == b""
    assert calls.first.missing() == [1, 2]
    calls.come()
    assert calls.leave([0, 0, 0]) == [0, 0, 0]
    assert calls.heard == [[], [], []]


def test_a_rank_that_is_there_is_not_replaced_by_another_of_its_number(calls: Calls) -> None:
    calls.come()
    heard: list[Ending] = []
    twin = Rendezvous(1, 3, heard.append)
    twin.enter(HOST, calls.port, TOKEN, 5)
    wait_for(lambda: heard, 5)
    assert heard[0].rank == 0
    assert calls.leave([0, 0, 0]) == [0, 0, 0]
    assert calls.heard == [[], [], []]


def test_a_first_rank_that_is_not_there_is_an_error() -> None:
    with socket.create_server((HOST, 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        Rendezvous(1, 2, lambda ending: None).enter(HOST, port, TOKEN, 5)
