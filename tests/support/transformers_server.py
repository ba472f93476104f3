"""`transformers serve` with one model on this machine's CPU, for tests that need a real model behind an endpoint."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType


class TransformersServer:
    """Use it as a context manager. The model's name in requests is its folder, as `model` has it."""

    _patience = 120.0

    def __init__(self, model: Path, port: int = 0) -> None:
        self.model, self.port = str(model), port or _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Returns when it is healthy, after some ten seconds."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        self._process = subprocess.Popen(self._command(), stdout=self._log, stderr=self._log, env=environment)
        deadline = time.monotonic() + self._patience
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                self._log.seek(0)
                raise RuntimeError(self._log.read().decode(errors="replace"))
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """At the same port."""
        self.kill()
        self.start()

    def __enter__(self) -> TransformersServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._log.close()

    def _command(self) -> list[str]:
        program = Path(sys.executable).with_name("transformers")
        where = ["--host=127.0.0.1", f"--port={self.port}", "--device=cpu"]
        # The weights' own bfloat16 is many times slower on a CPU without instructions for it.
        return [str(program), "serve", self.model, *where, "--dtype=float32"]

    def _healthy(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).read()
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
