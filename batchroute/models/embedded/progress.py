"""How far a fetch is: bars on a terminal, plain lines elsewhere, both in bytes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichBars

_SECONDS_BETWEEN_LINES = 10.0


class Progress(Protocol):
    def note(self, line: str) -> None:
        """One line about something that happened."""
        ...

    def downloaded(self, name: str, done: int, total: int) -> None:
        """Of the file of model `name`, `done` of `total` bytes are here."""
        ...


class Silent:
    def note(self, line: str) -> None:
        pass

    def downloaded(self, name: str, done: int, total: int) -> None:
        pass


class Lines:
    """Lines of text: a download's first, one every ten seconds, and its last."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._last: dict[str, float] = {}

    def note(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def downloaded(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._last.get(name, -_SECONDS_BETWEEN_LINES) < _SECONDS_BETWEEN_LINES:
            return
        self._last[name] = now
        self.note(f"{name}: {megabytes(done)} of {megabytes(total)}")


class Bars:
    """A bar for each download."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        self._bars = RichBars(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._tasks: dict[str, TaskID] = {}

    def note(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)

    def downloaded(self, name: str, done: int, total: int) -> None:
        if name not in self._tasks:
            self._bars.start()
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[name], completed=done)

    def close(self) -> None:
        self._bars.stop()


@contextmanager
def for_this_terminal() -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield Lines()
        return
    bars = Bars()
    try:
        yield bars
    finally:
        bars.close()


def megabytes(count: int) -> str:
    """`1,117 MB`; of less than 10 MB with a decimal."""
    return f"{count / 1e6:,.1f} MB" if count < 1e7 else f"{count / 1e6:,.0f} MB"
