"""The process that a copy of a vLLM model lives in, as the process that asks it sees it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from multiprocessing import Pipe
from typing import cast

from batchroute.generators.base import as_text
from batchroute.generators.vllm.worker import Load, Row, Said

_START = "from batchroute.generators.vllm.worker import main; main()"
# What each step of ending a worker may take, in seconds: asked (vLLM takes 5 to end its own), terminated, killed.
_PATIENCE = (8.0, 5.0, 5.0)
_LOOK = 0.2
# The last line of a traceback, which may be logged by one of vLLM's processes for another.
_ERROR = re.compile(
    r"(?:\([^)]*\)\s*)*(?:ERROR [^\]]*\]\s*)?(?P<error>(?:[A-Za-z_][\w.]*(?:Error|Exception)|Fatal Python error)\b.*)"
)


class Worker:
    """The process that holds the GPU memory, and the processes that vLLM starts from it.

    They are a session of their own: a Ctrl-C or a SIGTERM to the group of this process is for this process to handle,
    and all of them can be ended at once.
    """

    def __init__(self, load: Load, environment: dict[str, str]) -> None:
        self._connection, theirs = Pipe()
        self._process = subprocess.Popen(
            # Not by multiprocessing, whose children would run this program's main module; nor with the working folder
            # among the places that modules are imported from.
            [sys.executable, "-P", "-c", _START, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self._aloud = "VLLM_LOGGING_LEVEL" in os.environ
        self._errors: deque[str] = deque(maxlen=20)
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        # Whether it is gone is for the one to see who waits for what it says.
        with contextlib.suppress(EOFError):
            self.tell(load)

    def tell(self, what: Load | list[Row]) -> None:
        """Raises:
        EOFError: the worker is gone.
        """
        try:
            self._connection.send(what)
        except OSError as error:
            raise EOFError from error

    def hear(self) -> Said:
        """The next thing that the worker says; waits for it.

        Raises:
            EOFError: the worker is gone.
        """
        try:
            while not self._connection.poll(_LOOK):
                if self._process.poll() is not None and not self._connection.poll(0):
                    raise EOFError
            return cast(Said, self._connection.recv())
        except OSError as error:
            raise EOFError from error

    def stop(self) -> None:
        """End the worker and whatever it started, so that their memory is free. Also while another thread waits."""
        # Not closed: the other thread may be about to read from a descriptor that would be another file's by then.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
        asked, *patience = _PATIENCE
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(asked)
        for signum, seconds in zip((signal.SIGTERM, signal.SIGKILL), patience, strict=True):
            # It listens until the last process that can write to the pipe has ended: what vLLM started may be left.
            if self._listening.is_alive():
                self._signal_all(signum)
                self._listening.join(seconds)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def last_error(self, rows: Sequence[Row] = ()) -> str | None:
        """The last error that was printed, if any, but for those that quote a prompt of `rows`."""
        texts = [text for row in rows if len(text := as_text(row.prompt)) > 4]
        return next((error for error in reversed(self._errors) if not any(text in error for text in texts)), None)

    def ending(self) -> str:
        """How the process ended, after `stop`."""
        status = self._process.returncode
        return f"it ended with exit status {status}" if status is None or status >= 0 else f"signal {-status} ended it"

    def _signal_all(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)

    def _listen(self) -> None:
        """Keep the last errors of all that the worker and vLLM's processes print, and nothing else."""
        assert self._process.stdout is not None
        with self._process.stdout as printed:
            for line in iter(functools.partial(printed.readline, 4096), b""):
                text = line.decode(errors="replace")
                if self._aloud:
                    sys.stderr.write(text)
                found = _ERROR.match(text.strip())
                # One that sends the reader to another is of no use.
                if found and "root cause" not in text:
                    self._errors.append(found["error"][:300])
