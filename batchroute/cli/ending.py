"""How a command ends: what it prints about the error that ended it, and its exit code."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from batchroute import crash
from batchroute.errors import (
    EXIT_CLOSED,
    EXIT_CRASHED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_WAITING,
    BatchrouteError,
    CrashedError,
    Terminated,
)


class Ended(BaseException):
    """Carries an error, its cause, past Typer."""


@contextmanager
def _past_typer() -> Iterator[None]:
    """Typer itself would end the program after these errors, mostly with exit code 1 and without a word."""
    try:
        yield
    except (EOFError, OSError, KeyboardInterrupt, SystemExit) as error:
        raise Ended from error


class Commands(TyperGroup):
    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _past_typer():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _past_typer():
            return super().invoke(ctx)


def report_end(error: BaseException) -> int:
    """Print why the command ends; returns its exit code."""
    if isinstance(error, Terminated):
        typer.echo("terminated; run the same command again to go on", err=True)
        return EXIT_TERMINATED
    if isinstance(error, KeyboardInterrupt):
        typer.echo("interrupted; run the same command again to go on", err=True)
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError) and _is_closed(sys.stdout):
        return EXIT_CLOSED
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        # A console of rich makes this of a reader that is gone.
        return EXIT_CLOSED
    if isinstance(error, BatchrouteError) and not isinstance(error, CrashedError):
        typer.echo(f"{'waiting' if error.exit_code == EXIT_WAITING else 'error'}: {error}", err=True)
        return error.exit_code
    typer.echo(f"error: {crash.report(error)}", err=True)
    return EXIT_CRASHED


def report_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        typer.echo(f"warning: a thread ended: {crash.report(ended.exc_value)}", err=True)


def _is_closed(stream: TextIO) -> bool:
    """Whether the reader of a stream is gone, as after `| head`. If so, Python shall not try again when it ends."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return False
    closed = select.poll()
    closed.register(descriptor, 0)
    if not closed.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True
