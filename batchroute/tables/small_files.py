"""Small remote files: each is one request, and the next ones are asked for before their turn."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from batchroute.storage.store import Store

MOST_BYTES = 1 << 20
_AT_ONCE = 16
_KEPT_BYTES = 64 << 20


class SmallFiles:
    """Whole files of a store, read by several threads, of which the last ones asked for are kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._asked: OrderedDict[str, tuple[int, Future[bytes]]] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._kept = 0
        self._after: dict[str, str] = {}

    def expect(self, files: Sequence[tuple[str, int]]) -> None:
        """These files, each a path and its size, will be read in this order."""
        small = [path for path, size in files if size <= MOST_BYTES]
        with self._lock:
            self._sizes |= dict(files)
            self._after |= dict(itertools.pairwise(small))

    def read(self, path: str, size: int) -> bytes:
        """Raises:
        InputError, StoppedError: the file is gone, or the storage does not give it.
        """
        with self._lock:
            self._sizes[path] = size
            future = self._ask(path)
            following = self._after.get(path)
            for _ in range(_AT_ONCE):
                if following is None:
                    break
                self._ask(following)
                following = self._after.get(following)
        try:
            return future.result()
        except BaseException:
            with self._lock:
                if path in self._asked:
                    self._kept -= self._asked.pop(path)[0]
            raise

    def _ask(self, path: str) -> Future[bytes]:
        if path in self._asked:
            self._asked.move_to_end(path)
            return self._asked[path][1]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="small-files")
        future = self._pool.submit(self._store.read, path)
        self._asked[path] = (self._sizes[path], future)
        self._kept += self._sizes[path]
        while self._kept > _KEPT_BYTES:
            self._kept -= self._asked.popitem(last=False)[1][0]
        return future
