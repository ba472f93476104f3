"""The key-value store that the ranks of a run share: a few counters and short texts."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol, TypeVar

from batchroute.engines.ranks.world import NODES, World
from batchroute.errors import StoppedError, first_line

Answer = TypeVar("Answer")


class Store(Protocol):
    """torch's `TCPStore`, or memory if there is one rank."""

    def add(self, key: str, amount: int, /) -> int: ...
    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...


class MemoryStore:
    """A store inside one process."""

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


class TorchStore:
    """torch's `TCPStore`, served by rank 0 or by its launcher."""

    def __init__(self, world: World, until: float, on_lost: Callable[[Exception], BaseException]) -> None:
        """
        Args:
            until: deadline for the first connection, by `time.monotonic`.
            on_lost: makes the error to raise when the store stops answering.

        Raises:
            StoppedError: the store was not reached in time.
        """
        from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

        self._errors, self._lost_store = DistError, on_lost
        assert world.master is not None
        host, _, port = world.master.rpartition(":")
        # An elastic agent's store serves the ranks of one machine only.
        serves = world.is_rank_zero and (
            NODES in os.environ or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        )
        while True:
            # Short attempts: Python handles a signal only between them.
            try:
                if not serves:
                    # Otherwise torch prints pages about a host that does not answer yet.
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
                    raise StoppedError(
                        f"rank {world.rank} cannot {what} at {world.master}: {first_line(error)}"
                    ) from error
                time.sleep(0.2)

    def add(self, key: str, amount: int, /) -> int:
        return self._call(lambda: self._store.add(key, amount))

    def set(self, key: str, value: str, /) -> None:
        self._call(lambda: self._store.set(key, value))

    def get(self, key: str, /) -> bytes:
        return self._call(lambda: self._store.get(key))

    def check(self, keys: list[str], /) -> bool:
        return self._call(lambda: self._store.check(keys))

    def _call(self, request: Callable[[], Answer]) -> Answer:
        try:
            return request()
        except self._errors as error:
            raise self._lost_store(error) from error
