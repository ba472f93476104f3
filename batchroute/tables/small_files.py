"""Small remote files: each is one request, and the next ones are asked for before their turn."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from batchroute.storage.store import Store


MOST_BYTES = 1 << 20
_AT_ONCE = 16
_KEPT_BYTES = 64 << 20


class SmallFile(NamedTuple):
    path: str
    size: int
    version: str
    """Differs between files of one path that differ."""


class SmallFiles:
    """Whole files of a store, read by several threads, of which the last ones asked for are kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._asked: OrderedDict[SmallFile, Future[bytes]] = OrderedDict()
        self._kept = 0
        self._after: dict[SmallFile, SmallFile] = {}

    def expect(self, files: Sequence[SmallFile]) -> None:
        """These files will be read in this order."""
        with self._lock:
            self._after = dict(itertools.pairwise(files))

    def read(self, file: SmallFile) -> bytes:
        """What stands there now, up to a byte more than the size.

        Raises:
            FileNotFoundError: the file is gone.
            InputError, StoppedError: the storage does not give it.
        """
        with self._lock:
            future = self._ask(file)
            following = self._after.get(file)
            for _ in range(_AT_ONCE):
                if following is None:
                    break
                self._ask(following)
                following = self._after.get(following)
        try:
            return future.result()
        except BaseException:
            with self._lock:
                if self._asked.pop(file, None) is not None:
                    self._kept -= file.size
            raise

    def _ask(self, file: SmallFile) -> Future[bytes]:
        if file in self._asked:
            self._asked.move_to_end(file)
            return self._asked[file]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="small-files")
        # A range is one request; without one, some filesystems first ask for the size.
        self._asked[file] = self._pool.submit(self._store.read, file.path, 0, file.size + 1)
        self._kept += file.size
        while self._kept > _KEPT_BYTES:
            self._kept -= self._asked.popitem(last=False)[0].size
        return self._asked[file]


@functools.lru_cache(maxsize=4)
def small_files_of(store: Store) -> SmallFiles:
    """The same for all who read from a store, so that a run asks once for a file that several of its stages read."""
    return SmallFiles(store)
