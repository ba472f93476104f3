"""The store that the ranks of a run share: a few counters and short texts by key."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol, TypeVar

from batchroute.engines.ranks.world import NODES, World
from batchroute.errors import StoppedError

Answer = TypeVar("Answer")


class Store(Protocol):
    """What ranks share: torch's `TCPStore`, or the memory of the only rank."""

    def add(self, key: str, amount: int, /) -> int: ...
    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...


class Memory:
    """The store of a world of one, or of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, str] = {}

    def add(self, key: str, amount: int, /) -> int:
        with self._lock:
            value = int(self._values.get(key, "0")) + amount
            self._values[key] = str(value)
        return value

    def set(self, key: str, value: str, /) -> None:
        with self._lock:
            self._values[key] = value

    def get(self, key: str, /) -> bytes:
        return self._values[key].encode()

    def check(self, keys: list[str], /) -> bool:
        return all(key in self._values for key in keys)


class Shared:
    """torch's key-value store, at the first rank or at its launcher."""

    def __init__(self, world: World, until: float, is_gone: Callable[[Exception], BaseException]) -> None:
        """
        Args:
            until: of `time.monotonic`; so long it is tried to reach it.
            is_gone: the error to raise when it does not answer any more.

        Raises:
            StoppedError: it was not reached in time.
        """
        from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

        self._errors, self._is_gone = DistError, is_gone
        assert world.master is not None
        host, _, port = world.master.rpartition(":")
        # The agent's store, where there is one, is that of a single machine.
        serves = world.first and (NODES in os.environ or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True")
        while True:
            # In short tries, so that a signal is not left waiting.
            try:
                if not serves:
                    # torch prints pages about a host that does not answer yet.
                    socket.create_connection((host, int(port)), timeout=5).close()
                self._store = TCPStore(
                    host,
                    int(port),
                    world.size,
                    is_master=serves,
                    timeout=timedelta(seconds=5),
                    wait_for_workers=False,
                )
                return
            except (DistError, OSError) as error:
                if serves or time.monotonic() > until:
                    what = "listen" if serves else "reach rank 0"
                    raise StoppedError(f"rank {world.rank} cannot {what} at {world.master}: {_first(error)}") from error
                time.sleep(0.2)

    def add(self, key: str, amount: int, /) -> int:
        return self._ask(lambda: self._store.add(key, amount))

    def set(self, key: str, value: str, /) -> None:
        self._ask(lambda: self._store.set(key, value))

    def get(self, key: str, /) -> bytes:
        return self._ask(lambda: self._store.get(key))

    def check(self, keys: list[str], /) -> bool:
        return self._ask(lambda: self._store.check(keys))

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except self._errors as error:
            raise self._is_gone(error) from error


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]
