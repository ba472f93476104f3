"""Unexpected errors, which no message of batchroute explains: a sentence for the operator, and a traceback.

Neither holds a value of a variable. An error's own words are shown for the kinds that Python itself words, which name
types and names only: the words of all others may quote a row, and more people read logs than data.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from batchroute.errors import CrashedError

VARIABLE = "BATCHROUTE_TRACEBACK"
"""Set to `full` to show the words of every error, as when the rows are test data."""
_WITHOUT_VALUES = (
    AttributeError, ImportError, MemoryError, ModuleNotFoundError, NameError, NotImplementedError, RecursionError,
    TypeError, UnboundLocalError, ZeroDivisionError,
)  # fmt: skip
_PACKAGE = Path(__file__).parent


def sentence(error: BaseException, place: str = "below") -> str:
    """What happened, where its traceback is (`place`), and what to do."""
    if isinstance(error, CrashedError):
        return str(error)
    return (
        f"unexpected {type(error).__name__}{_origin(error)}; its traceback is {place}. Nothing that was done is lost: "
        "run again to go on; if it comes again, report it with the traceback"
    )


def report(error: BaseException) -> str:
    """The sentence, and the traceback below it."""
    return f"{sentence(error)}\n{trace(error)}".rstrip()


def trace(error: BaseException) -> str:
    """The traceback, with those of the errors that led to this one."""
    if isinstance(error, CrashedError):
        return error.trace
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.insert(0, cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n\nThe error above led to this one:\n\n".join(map(_link, chain))


def _link(error: BaseException) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"Traceback (most recent call last):\n{frames}{_worded(error)}"


def _worded(error: BaseException) -> str:
    name = type(error).__qualname__
    if type(error).__module__ != "builtins":
        name = f"{type(error).__module__}.{name}"
    if os.environ.get(VARIABLE) == "full" or type(error) in _WITHOUT_VALUES:
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    return f"{name} (its words may quote a row; {VARIABLE}=full shows them)"


def _origin(error: BaseException) -> str:
    """The last place in batchroute that the error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    if not ours:
        return ""
    return f" in batchroute/{Path(ours[-1].filename).relative_to(_PACKAGE).as_posix()} line {ours[-1].lineno}"
