"""The server as a process of its own, so that its client can be killed while it lives on, or it itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.openai_server import records

_ROOT = Path(__file__).parents[3]


class ServerProcess:
    """Use it as a context manager. All it knows is in `state`, and survives `kill` and `restart`. `settings` are those
    of `Settings` that JSON can carry.
    """

    module = "tests.support.openai_server"

    def __init__(self, state: Path, port: int = 0, **settings: Any) -> None:
        self.state, self.port = state, port or _free_port()
        self._settings = {"key": "sk-test", **settings}
        self._process: subprocess.Popen[bytes] | None = None
        state.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        command = [sys.executable, "-m", self.module]
        command += [f"--state={self.state}", f"--port={self.port}", f"--faults={self.state / 'faults.json'}"]
        command += [f"--{name.replace('_', '-')}={_argument(value)}" for name, value in self._settings.items()]
        with open(self.state / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=_ROOT)
        self._wait()

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """At the same port, with what it knew. The schedule of faults begins anew."""
        self.kill()
        self.start()

    def set_faults(
        self,
        chat: dict[str, Any] | None = None,
        batches: list[Any] | None = None,
        http: dict[str, int] | None = None,
        random: list[dict[str, Any]] | None = None,
    ) -> None:
        """In place of those of before."""
        asked = {"chat": chat or {}, "batches": batches or [], "http": http or {}, "random": random or []}
        temporary = self.state / "faults.new"
        temporary.write_text(json.dumps(asked))
        os.replace(temporary, self.state / "faults.json")

    def finish(self, batch: str, status: str = "completed") -> None:
        """Ends a batch now: completed, expired or cancelled."""
        url = f"http://127.0.0.1:{self.port}/control/finish/{batch}?status={status}"
        urllib.request.urlopen(url, timeout=60).read()

    def requests(self) -> list[records.Seen]:
        return [records.Seen(**entry) for entry in records.lines(self.state, "requests")]

    def served(self) -> Counter[str]:
        return Counter(records.lines(self.state, "served", "message"))

    def submitted(self) -> Counter[str]:
        return Counter(records.lines(self.state, "submitted", "message"))

    def submitted_ids(self) -> Counter[str]:
        return Counter(records.lines(self.state, "submitted", "custom_id"))

    def completed(self) -> Counter[str]:
        return records.completed(self.state)

    def max_in_flight(self) -> int:
        return max(records.lines(self.state, "in_flight", "most"), default=0)

    def batches(self) -> list[dict[str, Any]]:
        """As they were when last looked at, oldest first."""
        return [json.loads(path.read_bytes())["batch"] for path in sorted((self.state / "batches").glob("*.json"))]

    def files(self) -> list[str]:
        """The ids of the files that are not deleted."""
        return [path.stem for path in (self.state / "files").glob("*.json")]

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).read()
                return
            except OSError:
                ended = self._process is not None and self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise RuntimeError((self.state / "log").read_text()) from None
                time.sleep(0.02)


def _argument(value: Any) -> str:
    return json.dumps(sorted(value) if isinstance(value, set) else value)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
