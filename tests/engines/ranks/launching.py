"""Launchers that start real ranks: what they print, with which codes they end, and whether they leave processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

import psutil

from tests.crash import forking

_MARK = "BATCHROUTE_TEST"


@dataclass
class Ended:
    code: int
    out: str
    err: str


class Launched:
    """A launcher that runs, and all processes that came of it."""

    def __init__(self, folder: Path, words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """
        Args:
            words: after `python`; or, when they begin with `batchroute`, a command that is forked, not started, which
                saves a launcher the seconds of its imports.
        """
        self._mark = uuid.uuid4().hex
        self._err = folder / f"launched-{self._mark[:8]}.err"
        self._out = self._err.with_suffix(".out")
        marked = {"HF_HUB_OFFLINE": "1", **(environment or {}), _MARK: self._mark}
        self.process: BaseProcess | subprocess.Popen[bytes]
        if words[0] == "batchroute":
            self.process = forking.command(words[1:], self._err, self._err.with_suffix(".log"), marked)
        else:
            with self._out.open("w") as out, self._err.open("w") as err:
                environment = {**os.environ, **marked}
                self.process = subprocess.Popen([sys.executable, *words], stdout=out, stderr=err, env=environment)

    def __enter__(self) -> Launched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """All of its processes."""
        self.process.kill()
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Those that it has started, whoever is their parent now, and itself where it was not forked."""
        running = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    running.append(process)
            except psutil.Error:
                continue
        return running

    def rank(self, number: int) -> psutil.Process | None:
        """The process of a rank, once it runs."""
        for process in self.processes():
            try:
                if process.environ().get("RANK") == str(number):
                    return process
            except psutil.Error:
                continue
        return None

    def said(self) -> str:
        """On stderr."""
        return self._err.read_text() if self._err.exists() else ""

    def end(self, seconds: float = 120.0) -> Ended:
        """Wait for its end and that of all that it has started."""
        until = time.monotonic() + seconds
        while (code := self.code) is None:
            assert time.monotonic() < until, f"it hangs: {self.said()}"
            time.sleep(0.05)
        while left := self.processes():
            # One that was killed takes a moment.
            assert time.monotonic() < until, f"left: {left}"
            time.sleep(0.05)
        return Ended(code, self._out.read_text() if self._out.exists() else "", self.said())

    @property
    def code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self.process.exitcode if isinstance(self.process, BaseProcess) else self.process.poll()


def launch(folder: Path, words: Sequence[str], environment: Mapping[str, str] | None = None) -> Ended:
    """A launcher to its end."""
    with Launched(folder, words, environment) as launched:
        return launched.end()
