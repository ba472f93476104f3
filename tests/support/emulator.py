"""A server of the tests that is a program: started, asked until it answers, and ended."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from types import TracebackType

_SECONDS, _PAUSE = 60.0, 0.2


class Emulator:
    """The part of a context manager that all such servers share; it has `_process` while it runs."""

    _process: subprocess.Popen[bytes] | None = None

    def _start(self, command: Sequence[str], prepare: Callable[[], object]) -> None:
        """Start the program, and call `prepare` until it raises nothing.

        Raises:
            Exception: the last error of `prepare`, if the program ended or a minute went by.
        """
        process = self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                prepare()
                return
            except Exception:
                if time.monotonic() > deadline or process.poll() is not None:
                    process.kill()
                    raise
                time.sleep(_PAUSE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
