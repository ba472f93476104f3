"""The key of an endpoint: from the environment, from a file, or from a command; read again when it is refused."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from batchroute.errors import InputError, first_line

_COMMAND_SECONDS = 60.0


class Key:
    """A key, and where it is from.

    Attributes:
        value: empty if there is none.
        source: where it is from, for messages.
        changes: whether it may be another one when it is read again: a process keeps its environment.
        lack: what is said of `source` where it has none.
        shell: the words of a shell that give it, for a command that a person runs.
    """

    def __init__(self, variable: str, file: str | None = None, command: str | Sequence[str] | None = None) -> None:
        """
        Args:
            variable: of the environment; read unless a file or a command is given.

        Raises:
            InputError: the file cannot be read, the command fails, or what they hold is no key.
        """
        self._variable, self._file = variable, file
        self._command = shlex.split(command) if isinstance(command, str) else command
        self.changes = file is not None or command is not None
        self.source, self.shell = f"the environment variable {variable}", f"${variable}"
        self.lack = "is not set"
        if file is not None:
            self.source, self.shell = f"the file {file}", f"$(cat {shlex.quote(file)})"
            self.lack = "is empty"
        elif self._command is not None:
            self.source, self.shell = f"the command {self._command[0]}", f"$({shlex.join(self._command)})"
        self._lock = threading.Lock()
        self.value = self._read()

    def renewed(self, refused: str) -> bool:
        """Read the key again after it was refused; returns whether there is another one now.

        Args:
            refused: the key that was sent. Another thread may have read a new one since.

        Raises:
            InputError: as when it was read first.
        """
        with self._lock:
            if self.value == refused:
                self.value = self._read()
            return self.value != refused

    def _read(self) -> str:
        # Key files end in a line break, which no header may contain; the client's error would repeat the key.
        key = self._text().strip()
        if not (key.isascii() and key.isprintable()):
            raise InputError(f"what {self.source} holds is no key: it has line breaks or characters beyond ASCII in it")
        return key

    def _text(self) -> str:
        if self._file is not None:
            try:
                return Path(self._file).expanduser().read_text()
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is no text"
                raise InputError(f"the key in {self.source} cannot be read: {why}") from error
        if self._command is None:
            return os.environ.get(self._variable, "")
        try:
            done = subprocess.run(self._command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise InputError(f"{self.source} gives no key: {first_line(error)}") from error
        if done.returncode or not done.stdout.strip():
            # Its output may hold a part of a key.
            said = done.stderr.strip().splitlines()
            words = f": {said[-1]}" if said and done.returncode else ""
            raise InputError(f"{self.source} gives no key: it ended with {done.returncode}{words}")
        return done.stdout
