"""`batchroute WORDS` in a process of its own that starts in milliseconds: forked from one that has imported it all.

    ended = run("export", str(job.output))
    assert ended.code == 0, ended.err

A new interpreter (`python -m batchroute`) takes seconds. A test needs one only to see how an interpreter starts.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.crash import forking


@dataclass(frozen=True)
class Ended:
    """
    Attributes:
        code: the exit code, negative for a signal.
    """

    code: int
    out: str
    err: str


class Command:
    """A command that runs, with the environment of this process."""

    def __init__(self, *words: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="command-"))
        prepare = functools.partial(_take_over, dict(os.environ))
        self._process = forking.command(words, self._folder / "words.err", self._folder / "log", prepare=prepare)

    @property
    def code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def end(self, seconds: float = 120.0) -> Ended:
        """Wait for its end."""
        self._process.join(seconds)
        out, err = (self._read(f"words.{name}") for name in ("out", "err"))
        if self.code is None:
            self.kill()
            raise AssertionError(f"the command hangs: {err}")
        shutil.rmtree(self._folder)
        return Ended(self.code, out, err)

    def _read(self, name: str) -> str:
        file = self._folder / name
        return file.read_text() if file.exists() else ""


def _take_over(environment: dict[str, str]) -> None:
    """The process was forked with the environment of the first test that forked one."""
    os.environ.clear()
    os.environ.update(environment)


def run(*words: str) -> Ended:
    """Run the command to its end."""
    return Command(*words).end()
