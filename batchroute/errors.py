"""The errors that end a command, each with the exit code that a scheduler sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_OK = 0
EXIT_FAILED_ROWS = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 3
EXIT_WAITING = 4
EXIT_CRASHED = 70
EXIT_INTERRUPTED = 130
# As of a program that SIGPIPE ends.
EXIT_CLOSED = 141
EXIT_TERMINATED = 143


class BatchrouteError(Exception):
    """Ends the command with its message as one sentence, without a traceback."""

    exit_code = EXIT_BAD_INPUT


class InputError(BatchrouteError):
    """The user's input or configuration is wrong: the message says what, where and what to do. Do not retry."""


@contextmanager
def at_key(key: str) -> Iterator[None]:
    """A context in which the message of an `InputError` begins with the job's key that it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}: {error}") from error


class StoppedError(BatchrouteError):
    """The run stopped itself and can be resumed: the message says why."""

    exit_code = EXIT_STOPPED


class DiedError(StoppedError):
    """Another process of the run died: the message says which one. The run can be resumed."""


class WaitingError(BatchrouteError):
    """The run waits for a provider, as the message says. A later run continues it."""

    exit_code = EXIT_WAITING


class FailedRowsError(BatchrouteError):
    """The run is committed, but more of its rows failed than `max_failed` allows. Raised by `batchroute.run` alone.

    Attributes:
        result: a `batchroute.Result`.
    """

    exit_code = EXIT_FAILED_ROWS

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class CrashedError(BatchrouteError):
    """Another process of the run met an unexpected error, as the message says.

    Attributes:
        trace: the traceback; empty if that process's own log has it.
    """

    exit_code = EXIT_CRASHED

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class Terminated(BaseException):
    """SIGTERM arrived. Not an `Exception`, so that handlers of a model's errors do not catch it."""


def error_of(exit_code: int, message: str, trace: str = "") -> BaseException:
    """The error that another process ended with, from its exit code, its message and, if it crashed, its traceback."""
    if exit_code == EXIT_TERMINATED:
        return Terminated()
    if exit_code == EXIT_INTERRUPTED:
        return KeyboardInterrupt()
    if exit_code == EXIT_CRASHED:
        return CrashedError(message, trace)
    kinds: dict[int, type[BatchrouteError]] = {EXIT_BAD_INPUT: InputError, EXIT_WAITING: WaitingError}
    return kinds.get(exit_code, StoppedError)(message)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, short enough for a log line or a table cell."""
    text = str(error).strip() or type(error).__name__
    return shortened(text.splitlines()[0])


def shortened(text: str, most: int = 300) -> str:
    """The text, cut after its last whole word if it has more than `most` characters, with … in place of the rest."""
    if len(text) <= most:
        return text
    whole, space, _ = text[:most].rpartition(" ")
    # A word that fills most of the line, such as a URL, is cut all the same: the rest would say too little.
    return f"{whole if space and len(whole) > most // 2 else text[: most - 1]}…"
