"""Progress of a run: bars on a terminal, plain lines in a container, JSON lines for a log collector.

No line holds a prompt or a response: more people read logs than data.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from batchroute.costs.prices import usd
from batchroute.storage.receipts import Receipt
from batchroute.words import duration, money

# rich is imported for a terminal alone.
if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn

Report = Callable[[Receipt], None]
About = Callable[[Receipt], Mapping[str, Any]]
_SECONDS_BETWEEN_LINES = 10.0


def nothing_more(receipt: Receipt) -> Mapping[str, Any]:
    return {}


class Progress(Protocol):
    @contextmanager
    def stage(self, name: str, units: int, done: Sequence[Receipt], about: About = nothing_more) -> Iterator[Report]:
        """A stage of `units` units; the caller reports the receipt of each unit that is not in `done`.

        Args:
            about: further fields of a unit for the JSON log.
        """
        ...

    def pulse(self, name: str, unit: str, rows: int, of: int) -> None:
        """`rows` of the current unit's `of` are done: a sign of life from a unit that takes minutes."""
        ...

    def note(self, event: str, message: str, **fields: Any) -> None:
        """One line about something that happened."""
        ...


class Tally:
    """How far a stage is."""

    def __init__(self, units: int, done: Sequence[Receipt]) -> None:
        self.units, self.done, self.rows, self.failed, self.pico = units, 0, 0, 0, 0
        for receipt in done:
            self.add(receipt)
        self._started, self._rows_before, self._done_before = time.monotonic(), self.rows, self.done

    def add(self, receipt: Receipt) -> None:
        self.done += 1
        self.rows += receipt.rows
        self.failed += receipt.counts.get("failed", 0)
        self.pico += receipt.counts.get("cost_pico", 0)

    @property
    def projected_pico(self) -> int:
        """The cost of the whole stage if its other units cost as much as those done, of all attempts, on average."""
        return self.pico * self.units // max(self.done, 1)

    @property
    def rate(self) -> float:
        """Rows a second in this process."""
        return (self.rows - self._rows_before) / max(time.monotonic() - self._started, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        new = self.done - self._done_before
        return (time.monotonic() - self._started) / new * (self.units - self.done) if new else None


class Pace:
    """When to write a line: the first at once, then one every ten seconds."""

    def __init__(self) -> None:
        self._last = -_SECONDS_BETWEEN_LINES

    def is_time(self) -> bool:
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return False
        self._last = now
        return True


class PlainProgress:
    """Lines of text on stderr: the first and the last unit of a stage, and one every ten seconds between."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._pace = Pace()

    @contextmanager
    def stage(self, name: str, units: int, done: Sequence[Receipt], about: About = nothing_more) -> Iterator[Report]:
        tally, pace = Tally(units, done), Pace()
        self._pace = pace

        def report(receipt: Receipt) -> None:
            tally.add(receipt)
            if pace.is_time() or tally.done == units:
                self._write(describe(name, tally))

        yield report

    def pulse(self, name: str, unit: str, rows: int, of: int) -> None:
        if self._pace.is_time():
            self._write(f"{name}: unit {unit}: {rows:,}/{of:,} rows")

    def note(self, event: str, message: str, **fields: Any) -> None:
        self._write(message)

    def _write(self, line: str) -> None:
        _write_whole(self._stream, f"{time.strftime('%H:%M:%S')} {line}\n")


class JsonProgress:
    """Lines of JSON on stderr: one object for each unit and event."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._pace = Pace()

    @contextmanager
    def stage(self, name: str, units: int, done: Sequence[Receipt], about: About = nothing_more) -> Iterator[Report]:
        tally = Tally(units, done)

        def report(receipt: Receipt) -> None:
            tally.add(receipt)
            self._write(
                event="unit", stage=name, unit=receipt.unit, units=units, units_done=tally.done, rows=tally.rows,
                failed=tally.failed, rows_per_second=round(tally.rate, 3), seconds=round(receipt.seconds, 3),
                seconds_left=None if tally.seconds_left is None else round(tally.seconds_left, 1), **_costs(tally),
                **about(receipt),
            )  # fmt: skip

        yield report

    def pulse(self, name: str, unit: str, rows: int, of: int) -> None:
        if self._pace.is_time():
            self._write(event="pulse", stage=name, unit=unit, rows=rows, unit_rows=of)

    def note(self, event: str, message: str, **fields: Any) -> None:
        self._write(event=event, message=message, **fields)

    def _write(self, **fields: Any) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._take({"time": now, **fields})

    def _take(self, record: dict[str, Any]) -> None:
        _write_whole(self._stream, json.dumps(record, default=str) + "\n")


Callback = Callable[[dict[str, Any]], object]
_LOG = logging.getLogger("batchroute")
# Of what is noted, what somebody should look at.
_WARNINGS = ("storage", "notify", "lineage", "failed_rows", "lost", "drift")


class CallbackProgress(JsonProgress):
    """Calls a function with the record of each unit and event, one at a time. A night does not end by its error."""

    def __init__(self, callback: Callback) -> None:
        super().__init__()
        self._callback, self._lock = callback, threading.RLock()

    def _take(self, record: dict[str, Any]) -> None:
        with self._lock:
            try:
                self._callback(record)
            except Exception:
                _LOG.exception("progress= raised an error at the event %s; the run goes on", record["event"])


class LogProgress(PlainProgress):
    """Writes the lines of `PlainProgress` to Python's logger `batchroute`."""

    def note(self, event: str, message: str, **fields: Any) -> None:
        _LOG.log(logging.WARNING if event in _WARNINGS else logging.INFO, message)

    def _write(self, line: str) -> None:
        _LOG.info(line)


class TerminalProgress:
    """A bar for each stage. Stages that run at the same time share one display: two would overwrite each other."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._lock = threading.Lock()
        self._running = 0

    @contextmanager
    def stage(self, name: str, units: int, done: Sequence[Receipt], about: About = nothing_more) -> Iterator[Report]:
        tally = Tally(units, done)
        with self._shared_bars() as bars:
            task = bars.add_task(name, total=units, completed=len(done), rows="")

            def report(receipt: Receipt) -> None:
                tally.add(receipt)
                bars.update(task, advance=1, rows=_taken(tally))

            yield report

    def pulse(self, name: str, unit: str, rows: int, of: int) -> None:
        """The bar itself is the sign of life."""

    def note(self, event: str, message: str, **fields: Any) -> None:
        self._console.print(message, highlight=False, markup=False)

    @contextmanager
    def _shared_bars(self) -> Iterator[Bars]:
        from rich.progress import Progress as Bars

        with self._lock:
            if self._running == 0:
                self._bars = Bars(*_columns(), console=self._console)
                self._bars.start()
            self._running += 1
        try:
            yield self._bars
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._bars.stop()


class NoProgress:
    """No output: another process reports for this one."""

    @contextmanager
    def stage(self, name: str, units: int, done: Sequence[Receipt], about: About = nothing_more) -> Iterator[Report]:
        yield lambda receipt: None

    def pulse(self, name: str, unit: str, rows: int, of: int) -> None:
        pass

    def note(self, event: str, message: str, **fields: Any) -> None:
        pass


def _columns() -> tuple[ProgressColumn, ...]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return (
        TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("units · {task.fields[rows]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip


def for_this_terminal(json_logs: bool) -> Progress:
    if json_logs:
        return JsonProgress()
    return TerminalProgress() if sys.stderr.isatty() else PlainProgress()


def _write_whole(stream: TextIO, line: str) -> None:
    """Write a line in one piece: other threads write lines, too."""
    stream.write(line)
    stream.flush()


def describe(name: str, tally: Tally) -> str:
    left = "" if tally.seconds_left is None or tally.done == tally.units else f" · {duration(tally.seconds_left)} left"
    return f"{name}: {tally.done:,}/{tally.units:,} units · {_taken(tally)}{left}"


def _taken(tally: Tally) -> str:
    """Rows, their rate, and failures and costs if there are any."""
    parts = [f"{tally.rows:,} rows", _rate(tally.rate)]
    if tally.failed:
        parts.append(f"{tally.failed:,} failed")
    if tally.pico:
        in_all = f", about {money(usd(tally.projected_pico))} in all" if tally.done < tally.units else ""
        parts.append(money(usd(tally.pico)) + in_all)
    return " · ".join(parts)


def _costs(tally: Tally) -> dict[str, float]:
    """Dollars for the JSON log; empty in a stage without costs."""
    if not tally.pico:
        return {}
    return {"cost_usd": float(usd(tally.pico)), "projected_cost_usd": float(usd(tally.projected_pico))}


def _rate(rows_a_second: float) -> str:
    return f"{rows_a_second:,.0f} rows/s" if rows_a_second >= 10 else f"{rows_a_second:.1f} rows/s"
