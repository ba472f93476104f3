"""The rendezvous: every rank holds a connection to rank 0, so that all ranks hear at once when one ends early.

When a process dies, its kernel closes its connections; when a machine dies, it stops answering TCP keep-alive probes.
There is no heartbeat in Python: a long computation would delay it until it looks like a death.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from batchroute.engines.ranks.ending import Ending
from batchroute.errors import EXIT_STOPPED

# A dead machine is noticed after five seconds of silence and four probes, two seconds apart.
_IDLE, _INTERVAL, _PROBES = 5, 2, 4
_SECONDS_TO_LEAVE, _SECONDS_TO_STOP = 30.0, 5.0
_LONGEST_LINE = 1 << 16


class Rendezvous:
    """One rank's side of the connections: rank 0 has one to every rank, and each of them one to rank 0.

    Attributes:
        ending: the first early ending that this rank knows of, its own included.
        final_exit_code: the exit code of the run, once rank 0 has finished.
    """

    def __init__(self, rank: int, size: int, on_ending: Callable[[Ending], None]) -> None:
        """
        Args:
            on_ending: called once, from a thread, when another rank ends the run early.
        """
        self.ending: Ending | None = None
        self.final_exit_code: int | None = None
        self._rank, self._size, self._on_ending = rank, size, on_ending
        self._changed = threading.Condition()
        self._peers: dict[int, socket.socket] = {}
        self._closed: set[int] = set()
        self._leaving = False
        self._server: socket.socket | None = None

    def open(self, host: str, token: str) -> int:
        """On rank 0: listen for the other ranks. Returns the port."""
        self._server = socket.create_server((_listen_at(host), 0), backlog=self._size)
        threading.Thread(target=self._accept, args=(self._server, token), daemon=True).start()
        return int(self._server.getsockname()[1])

    def enter(self, host: str, port: int, token: str, seconds: float) -> None:
        """Connect to rank 0.

        Raises:
            OSError: rank 0 does not listen there.
        """
        connection = socket.create_connection((host, port), timeout=seconds)
        connection.settimeout(None)
        _send(connection, {"rank": self._rank, "token": token})
        self._add_peer(0, connection)

    def missing(self) -> list[int]:
        """On rank 0: the ranks that have not connected. Other ranks do not know and return an empty list."""
        with self._changed:
            if self._rank != 0:
                return []
            return [rank for rank in range(1, self._size) if rank not in self._peers]

    def end(self, exit_code: int, message: str) -> None:
        """Tell all other ranks that this rank ends the run early."""
        self._record(Ending(self._rank, exit_code, message))

    def wait(self, seconds: float) -> None:
        """Wait until a message or a death changes the state, or until the time is up."""
        with self._changed:
            self._changed.wait(seconds)

    def leave(self, exit_code: int) -> int:
        """Close in order: rank 0 waits until all others have closed; they wait for rank 0's exit code without limit.

        Returns:
            Rank 0's exit code if known, else `exit_code`. `ending` holds an early ending that arrives meanwhile.
        """
        early = self.ending
        with self._changed:
            # Until rank 0 has sent its exit code, its death still has to count as one.
            self._leaving = self._rank == 0 or early is not None
        if self._rank == 0:
            self._send_to_all({"over": exit_code})
        seconds = _SECONDS_TO_STOP if early is not None else _SECONDS_TO_LEAVE if self._rank == 0 else math.inf
        until = time.monotonic() + seconds
        with self._changed:
            while time.monotonic() < until and not self._may_leave():
                # Short waits: Python handles a signal only between them.
                self._changed.wait(0.2)
        self.close()
        return exit_code if self.final_exit_code is None else self.final_exit_code

    def close(self) -> None:
        with self._changed:
            self._leaving = True
            connections = [*self._peers.values(), *([self._server] if self._server else [])]
        for connection in connections:
            _close(connection)

    def _may_leave(self) -> bool:
        if self.final_exit_code is not None:
            return True
        return self._closed >= set(self._peers) if self._leaving else self.ending is not None

    def _accept(self, door: socket.socket, token: str) -> None:
        while True:
            try:
                connection, _ = door.accept()
            except OSError:
                return
            threading.Thread(target=self._handshake, args=(connection, token), daemon=True).start()

    def _handshake(self, connection: socket.socket, token: str) -> None:
        connection.settimeout(30)
        try:
            hello = _read(connection)
            rank = int(hello["rank"])
            accepted = hmac.compare_digest(str(hello["token"]), token) and rank in self.missing()
        except (OSError, ValueError, KeyError, TypeError):
            accepted = False
        if accepted:
            connection.settimeout(None)
            self._add_peer(rank, connection)
        else:
            _close(connection)

    def _add_peer(self, rank: int, connection: socket.socket) -> None:
        _keep_alive(connection)
        with self._changed:
            self._peers[rank] = connection
            self._changed.notify_all()
        threading.Thread(target=self._listen, args=(rank, connection), daemon=True).start()

    def _listen(self, rank: int, connection: socket.socket) -> None:
        try:
            while True:
                message = _read(connection)
                if "over" in message:
                    with self._changed:
                        self.final_exit_code = int(message["over"])
                        self._changed.notify_all()
                else:
                    self._record(Ending(**message))
        except (OSError, ValueError, TypeError):
            with self._changed:
                self._closed.add(rank)
                expected = self._leaving or self.final_exit_code is not None
                self._changed.notify_all()
            if not expected:
                self._record(Ending(rank, EXIT_STOPPED, f"rank {rank} of {self._size} died", died=True))

    def _record(self, ending: Ending) -> None:
        with self._changed:
            if self.ending is not None:
                return
            self.ending = ending
            self._changed.notify_all()
        if self._rank in (0, ending.rank):
            self._send_to_all(asdict(ending))
        if ending.rank != self._rank:
            self._on_ending(ending)

    def _send_to_all(self, message: dict[str, Any]) -> None:
        with self._changed:
            connections = list(self._peers.values())
        for connection in connections:
            _send(connection, message)


def _listen_at(host: str) -> str:
    """The address to listen at: loopback only if all ranks are on this machine."""
    return "127.0.0.1" if host in ("localhost", "127.0.0.1") else ""


def _read(connection: socket.socket) -> dict[str, Any]:
    """Read one JSON line.

    Raises:
        ConnectionError: the connection ends before the line does, or the line is too long.
        ValueError: the line is not JSON.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > _LONGEST_LINE:
            raise ConnectionError
        line += byte
    message: dict[str, Any] = json.loads(bytes(line))
    return message


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    """A closed connection is ignored: the thread that reads it records the death."""
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _INTERVAL), ("TCP_KEEPCNT", _PROBES)):
        # Not every system has these options.
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
