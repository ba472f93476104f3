"""Launchers that start real ranks: what they print, with which codes they end, and whether they leave processes."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

import psutil

from tests.crash import forking
from tests.crash.forked_ranks import fork_ranks, registered

_MARK = "BATCHROUTE_TEST"


@dataclass
class Ended:
    code: int
    out: str
    err: str


class Launched:
    """A launcher that runs, and all processes that came of it."""

    def __init__(
        self,
        folder: Path,
        words: Sequence[str],
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], object] | None = None,
        ranks: Path | None = None,
    ) -> None:
        """
        Args:
            words: after `python`; or, when they begin with `batchroute`, a command that is forked, not started, as are
                its ranks: that saves each of them the seconds of its imports.
            prepare: called in a forked process before its command, in place of what makes it fork its ranks.
            ranks: where they are registered then, see `fork_ranks`.
        """
        self._mark = uuid.uuid4().hex
        self._err = folder / f"launched-{self._mark[:8]}.err"
        self._out, self._forked = self._err.with_suffix(".out"), ranks or self._err.with_suffix(".ranks")
        marked = {"HF_HUB_OFFLINE": "1", **(environment or {}), _MARK: self._mark}
        self.process: BaseProcess | subprocess.Popen[bytes]
        if words[0] == "batchroute":
            fork = prepare or functools.partial(fork_ranks, self._forked)
            self.process = forking.command(words[1:], self._err, self._err.with_suffix(".log"), marked, fork)
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
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            launcher = psutil.Process(self.process.pid)
            # One that is forked now would not be in the list.
            launcher.suspend()
            children = launcher.children(recursive=True)
        self.process.kill()
        for process in {*children, *self.processes()}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Those that it has started, whoever is their parent now, and itself where it was not forked."""
        running = [process for pid in registered(self._forked) if (process := _alive(pid)) is not None]
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    running.append(process)
            except psutil.Error:
                continue
        return running

    def rank(self, number: int) -> psutil.Process | None:
        """The process of a rank that was forked, once it runs."""
        ranks = {variables["RANK"]: pid for pid, variables in registered(self._forked).items() if _alive(pid)}
        return _alive(ranks[str(number)]) if str(number) in ranks else None

    def variables(self, rank: psutil.Process) -> dict[str, str]:
        """Some of a forked rank's environment."""
        return registered(self._forked)[rank.pid]

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


def _alive(pid: int) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.Error:
        return None


def launch(folder: Path, words: Sequence[str], environment: Mapping[str, str] | None = None) -> Ended:
    """A launcher to its end."""
    with Launched(folder, words, environment) as launched:
        return launched.end()
