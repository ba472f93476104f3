"""The parent's side of a vLLM worker: starts the worker's process, talks to it over a pipe, and ends it."""

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
from pathlib import Path
from typing import cast

import batchroute
from batchroute.errors import shortened
from batchroute.generators.vllm.interpreter import Interpreter
from batchroute.generators.vllm.messages import Load, Message, Row
from batchroute.generators.vllm.watch import EngineProcesses
from batchroute.prompt import as_text

# The worker runs the source that runs here, under whatever interpreter, and nothing else from where it lies. A worker
# may start hours after its parent, so the source may be another by then.
_START = """
import sys
from importlib import util
spec = util.spec_from_file_location("batchroute", sys.argv[2] + "/__init__.py")
module = sys.modules["batchroute"] = util.module_from_spec(spec)
spec.loader.exec_module(module)
if module.__version__ != sys.argv[3]:
    raise ImportError(f"batchroute was {sys.argv[3]} when the run started, and is {module.__version__} now: run again")
from batchroute.generators.vllm.worker import main
main()
"""
_SOURCE = str(Path(batchroute.__file__).parent)
# Seconds for each step of ending a worker: closing its pipe (vLLM gives its processes 5), SIGTERM, SIGKILL.
PATIENCE = (8.0, 5.0, 5.0)
_LOOK = 0.2
# Seconds that a worker has to say why after a process of its engine has ended.
_LAST_WORDS = 3.0
# The last line of a traceback, which may be logged by one of vLLM's processes for another.
_ERROR = re.compile(
    r"(?:\([^)]*\)\s*)*(?:ERROR [^\]]*\]\s*)?(?P<error>(?:[A-Za-z_][\w.]*(?:Error|Exception)|Fatal Python error)\b.*)"
)


class Worker:
    """The process that holds the GPU memory, with the processes that vLLM starts from it.

    They form a session of their own. So a Ctrl-C or a SIGTERM for the parent's process group does not reach them, and a
    signal to their group ends all of them.
    """

    def __init__(
        self, load: Load, interpreter: Interpreter, environment: dict[str, str], patience: Sequence[float] = PATIENCE
    ) -> None:
        self._patience = patience
        self._connection, theirs = Pipe()
        self._process = subprocess.Popen(
            # multiprocessing's children would import this program's main module. With -P, Python does not import
            # modules from the working folder.
            [interpreter.path, "-P", "-c", _START, str(theirs.fileno()), _SOURCE, batchroute.__version__],
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
        self._engine = EngineProcesses(self._process.pid)
        self._loaded = False
        self._lost: str | None = None
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        # If the worker is gone already, `receive` raises.
        with contextlib.suppress(EOFError):
            self.send(load)

    def send(self, what: Load | list[Row]) -> None:
        """Raises:
        EOFError: the worker is gone.
        """
        try:
            self._connection.send(what)
        except OSError as error:
            raise EOFError from error

    def receive(self) -> Message:
        """Wait for the worker's next message.

        Raises:
            EOFError: the worker or a process of its engine is gone.
        """
        try:
            while not self._connection.poll(_LOOK):
                if self._process.poll() is not None and not self._connection.poll(0):
                    raise EOFError
                if not self._loaded:
                    self._engine.look()
                # The worker itself may wait for an engine that is gone, and for ever.
                self._lost = self._lost or self._engine.gone()
                if self._lost is not None and not self._connection.poll(_LAST_WORDS):
                    raise EOFError
            message = cast(Message, self._connection.recv())
        except OSError as error:
            raise EOFError from error
        if message.what == "loaded":
            self._loaded = True
            self._engine.look(loaded=True)
        return message

    def stop(self) -> None:
        """End the worker and the processes that it started. May be called while another thread waits in `receive`."""
        # The connection is shut down, not closed: the other thread could read from a reused descriptor.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
        self._lost = self._lost or self._engine.gone()
        if self._lost is not None:
            # What is left of an engine waits for the rest of it.
            self._engine.kill()
            self._process.kill()
        closed, *patience = self._patience
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(closed)
        for signum, seconds in zip((signal.SIGTERM, signal.SIGKILL), patience, strict=True):
            # The thread listens until the last process that has the pipe ends: vLLM's own may outlive the worker.
            if self._listening.is_alive():
                self._signal_all(signum)
                self._listening.join(seconds)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def last_error(self, rows: Sequence[Row] = ()) -> str | None:
        """The last error that was printed and does not quote a prompt of `rows`; None if there is none."""
        texts = [text for row in rows if len(text := as_text(row.prompt)) > 4]
        return next((error for error in reversed(self._errors) if not any(text in error for text in texts)), None)

    @property
    def killed(self) -> bool:
        """Whether a signal ended it, or a process of its engine ended, after `stop`."""
        return self._lost is not None or (self._process.returncode or 0) < 0

    def ending(self) -> str:
        """How the process ended, after `stop`."""
        if self._lost is not None:
            return f"its process {self._lost} ended"
        status = self._process.returncode
        return f"it ended with exit status {status}" if status is None or status >= 0 else f"signal {-status} ended it"

    def _signal_all(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)

    def _listen(self) -> None:
        """Read the output of the worker and of vLLM's processes, and keep the last errors in it."""
        assert self._process.stdout is not None
        with self._process.stdout as printed:
            for line in iter(functools.partial(printed.readline, 4096), b""):
                text = line.decode(errors="replace")
                if self._aloud:
                    sys.stderr.write(text)
                match = _ERROR.match(text.strip())
                # An error that only points to the root cause does not help.
                if match and "root cause" not in text:
                    self._errors.append(shortened(match["error"]))
