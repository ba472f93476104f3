"""The roll call: every rank holds a connection to the first one, so that all hear at once when one of them ends early.

A process that dies, of whatever, has its connections closed by its machine's kernel; a machine that dies stops
answering the kernel's keep-alive probes. Neither needs a heartbeat of Python's, which a long computation would delay
until it looks like a death.
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
from dataclasses import asdict, dataclass
from typing import Any

from batchroute.errors import EXIT_STOPPED

# A machine that is gone is noticed after five seconds of silence and four probes, two seconds apart.
_IDLE, _INTERVAL, _PROBES = 5, 2, 4
_SECONDS_TO_LEAVE, _SECONDS_TO_STOP = 30.0, 5.0
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class Ending:
    """How a rank ended the run for all, before its end.

    Attributes:
        died: whether it ended without a word.
    """

    rank: int
    exit_code: int
    message: str
    died: bool = False


class Rendezvous:
    """One rank's end of it.

    Attributes:
        ending: the first early ending that is known, of whichever rank.
        over: the exit code of the run, once the first rank has finished.
    """

    def __init__(self, rank: int, size: int, on_ending: Callable[[Ending], None]) -> None:
        """
        Args:
            on_ending: called once, from a thread, when another rank ends the run early.
        """
        self.ending: Ending | None = None
        self.over: int | None = None
        self._rank, self._size, self._on_ending = rank, size, on_ending
        self._changed = threading.Condition()
        self._peers: dict[int, socket.socket] = {}
        self._gone: set[int] = set()
        self._leaving = False
        self._door: socket.socket | None = None

    def open(self, host: str, token: str) -> int:
        """Let the others in, as the first rank; returns the port."""
        self._door = socket.create_server((_listen_at(host), 0), backlog=self._size)
        threading.Thread(target=self._admit, args=(self._door, token), daemon=True).start()
        return int(self._door.getsockname()[1])

    def enter(self, host: str, port: int, token: str, seconds: float) -> None:
        """Connect to the first rank.

        Raises:
            OSError: it is not there any more.
        """
        connection = socket.create_connection((host, port), timeout=seconds)
        connection.settimeout(None)
        _send(connection, {"rank": self._rank, "token": token})
        self._attend(0, connection)

    def missing(self) -> list[int]:
        """The ranks that have not come yet, as the first rank sees it; none for the others, which do not know."""
        with self._changed:
            if self._rank != 0:
                return []
            return [rank for rank in range(1, self._size) if rank not in self._peers]

    def end(self, exit_code: int, message: str) -> None:
        """Tell all others that this rank ends the run."""
        self._hear(Ending(self._rank, exit_code, message))

    def wait(self, seconds: float) -> None:
        """Until something is heard, or so long."""
        with self._changed:
            self._changed.wait(seconds)

    def leave(self, exit_code: int) -> int:
        """End, the first rank after all others have, and these when the first one has, however long it takes.

        Returns:
            The exit code of the first rank, where that is known. An ending that is heard meanwhile is in `ending`.
        """
        early = self.ending
        with self._changed:
            # The others are still to hear of it when the first one dies before the run is over.
            self._leaving = self._rank == 0 or early is not None
        if self._rank == 0:
            self._tell({"over": exit_code})
        seconds = _SECONDS_TO_STOP if early is not None else _SECONDS_TO_LEAVE if self._rank == 0 else math.inf
        until = time.monotonic() + seconds
        with self._changed:
            while time.monotonic() < until and not self._may_go():
                # In short waits, so that a signal is not left waiting.
                self._changed.wait(0.2)
        self.close()
        return exit_code if self.over is None else self.over

    def close(self) -> None:
        with self._changed:
            self._leaving = True
            connections = [*self._peers.values(), *([self._door] if self._door else [])]
        for connection in connections:
            _close(connection)

    def _may_go(self) -> bool:
        if self.over is not None:
            return True
        return self._gone >= set(self._peers) if self._leaving else self.ending is not None

    def _admit(self, door: socket.socket, token: str) -> None:
        while True:
            try:
                connection, _ = door.accept()
            except OSError:
                return
            threading.Thread(target=self._greet, args=(connection, token), daemon=True).start()

    def _greet(self, connection: socket.socket, token: str) -> None:
        connection.settimeout(30)
        try:
            hello = _read(connection)
            rank = int(hello["rank"])
            welcome = hmac.compare_digest(str(hello["token"]), token) and rank in self.missing()
        except (OSError, ValueError, KeyError, TypeError):
            welcome = False
        if welcome:
            connection.settimeout(None)
            self._attend(rank, connection)
        else:
            _close(connection)

    def _attend(self, rank: int, connection: socket.socket) -> None:
        _keep_alive(connection)
        with self._changed:
            self._peers[rank] = connection
            self._changed.notify_all()
        threading.Thread(target=self._listen, args=(rank, connection), daemon=True).start()

    def _listen(self, rank: int, connection: socket.socket) -> None:
        try:
            while True:
                said = _read(connection)
                if "over" in said:
                    with self._changed:
                        self.over = int(said["over"])
                        self._changed.notify_all()
                else:
                    self._hear(Ending(**said))
        except (OSError, ValueError, TypeError):
            with self._changed:
                self._gone.add(rank)
                expected = self._leaving or self.over is not None
                self._changed.notify_all()
            if not expected:
                self._hear(Ending(rank, EXIT_STOPPED, f"rank {rank} of {self._size} died", died=True))

    def _hear(self, ending: Ending) -> None:
        with self._changed:
            if self.ending is not None:
                return
            self.ending = ending
            self._changed.notify_all()
        if self._rank in (0, ending.rank):
            self._tell(asdict(ending))
        if ending.rank != self._rank:
            self._on_ending(ending)

    def _tell(self, message: dict[str, Any]) -> None:
        with self._changed:
            connections = list(self._peers.values())
        for connection in connections:
            _send(connection, message)


def _listen_at(host: str) -> str:
    """Only this machine where all ranks are on it."""
    return "127.0.0.1" if host in ("localhost", "127.0.0.1") else ""


def _read(connection: socket.socket) -> dict[str, Any]:
    """The next line, and no further.

    Raises:
        ConnectionError: it ends before that.
        ValueError: it is no JSON.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > _LONGEST_LINE:
            raise ConnectionError
        line += byte
    found: dict[str, Any] = json.loads(bytes(line))
    return found


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Whoever is gone hears nothing; that it is gone is heard by its listener."""
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _INTERVAL), ("TCP_KEEPCNT", _PROBES)):
        # Not every system lets a program choose them.
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
