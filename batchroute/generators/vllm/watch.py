"""The processes of vLLM's engine, which a worker starts: `VLLM::EngineCore`, `VLLM::Worker`.

vLLM's own client waits for the engine without a limit, also if the kernel has killed it. So the parent looks after
these processes itself.
"""

from __future__ import annotations

import contextlib
import time

import psutil

# vLLM names its processes so, by the package setproctitle.
_NAMED = "VLLM::"
# The argument of a process that Python's multiprocessing has spawned, where that package is missing.
_SPAWNED = "--multiprocessing-fork"
_LOOK_AGAIN = 1.0


class EngineProcesses:
    """The engine's processes below one worker, and no others: those of a compiler, for example, may end."""

    def __init__(self, worker: int) -> None:
        """
        Args:
            worker: its process id.
        """
        self._worker = worker
        self._seen: dict[int, tuple[psutil.Process, str]] = {}
        self._next_look = 0.0

    def look(self, loaded: bool = False) -> None:
        """Find processes that are new, at most once a second.

        Args:
            loaded: all are there: look now, and take those without a name of vLLM's if none has one.
        """
        if time.monotonic() < self._next_look and not loaded:
            return
        self._next_look = time.monotonic() + _LOOK_AGAIN
        below = _below(self._worker)
        named = {process: words[0].strip() for process, words in below.items() if words[0].startswith(_NAMED)}
        # While vLLM loads, it asks short-lived processes too.
        if not named and loaded:
            named = {process: "of the engine" for process, words in below.items() if _SPAWNED in words}
        for process, name in named.items():
            self._seen.setdefault(process.pid, (process, name))

    def gone(self) -> str | None:
        """The name of a process that has ended; None if all are alive."""
        return next((name for process, name in self._seen.values() if not _alive(process)), None)

    def kill(self) -> None:
        """End all of them at once, and not Python's resource tracker, which removes their shared memory then."""
        for process, _ in self._seen.values():
            with contextlib.suppress(psutil.Error):
                process.kill()


def _below(worker: int) -> dict[psutil.Process, list[str]]:
    """All processes that descend from the worker, with their command lines. A zombie has none."""
    below = {}
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(worker).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                below[process] = process.cmdline()
    return {process: words for process, words in below.items() if words}


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
