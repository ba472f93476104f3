"""Attempts at a job in processes that start in milliseconds and end where a test wants.

A server process, which has imported all that a job needs, forks them.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.crash.imports"])

CRASHED = 99


@dataclass(frozen=True)
class Crash:
    """End by `os._exit` before or after the put of this number, counted from 0 in the attempt."""

    put: int
    when: Literal["before", "after"]


def start(job: str, log: Path, environment: dict[str, str] | None = None, crash: Crash | None = None) -> BaseProcess:
    """Start an attempt. `log` gets a line for each put that was made and each unit that was committed."""
    process = _context.Process(target=_attempt, args=(job, str(log), environment or {}, crash))
    process.start()
    return process


def run(job: str, log: Path, environment: dict[str, str] | None = None, crash: Crash | None = None) -> int:
    """Run an attempt to its end; returns its exit code, negative for a signal."""
    process = start(job, log, environment, crash)
    process.join(120)
    assert process.exitcode is not None, "an attempt hangs"
    return process.exitcode


def command(
    words: Sequence[str],
    printed: Path,
    log: Path,
    environment: dict[str, str] | None = None,
    prepare: Callable[[], object] | None = None,
) -> BaseProcess:
    """Start `batchroute WORDS`.

    Args:
        printed: gets the command's stderr; the file next to it that ends in .out gets its stdout.
        log: as of `start`; several commands may share one.
        prepare: called in the process before the command, to plant a fault.
    """
    process = _context.Process(target=_command, args=(words, str(printed), str(log), environment or {}, prepare))
    process.start()
    return process


def lines(log: Path, kind: str) -> list[str]:
    """What the log says of one kind: `put`, `unit` or `error`."""
    if not log.exists():
        return []
    return [line.split(" ", 1)[1] for line in log.read_text().splitlines() if line.startswith(kind + " ")]


def in_process(target: Any, *arguments: Any) -> BaseProcess:
    process = _context.Process(target=target, args=arguments)
    process.start()
    return process


def event() -> Any:
    return _context.Event()


def results() -> Any:
    return _context.Queue()


def _attempt(path: str, log: str, environment: dict[str, str], crash: Crash | None) -> None:
    os.environ.update({**environment, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    import torch

    from batchroute.config import loading
    from batchroute.errors import EXIT_TERMINATED, BatchrouteError, Terminated
    from batchroute.pipeline import run as job
    from batchroute.progress import PlainProgress

    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open(log, "a", buffering=1) as lines:
        _watch(lines, crash)
        try:
            with open(os.devnull, "w") as nowhere:
                outcome = job.run(loading.load(path), PlainProgress(nowhere))
            lines.write(f"done {outcome.manifest.committed_by}\n")
            code = outcome.exit_code
        except BatchrouteError as error:
            lines.write(f"error {error}\n")
            code = error.exit_code
        except Terminated:
            code = EXIT_TERMINATED
    # No clean-up: only files on disk count.
    os._exit(code)


def _command(
    words: Sequence[str],
    printed: str,
    log: str,
    environment: dict[str, str],
    prepare: Callable[[], object] | None,
) -> None:
    for descriptor, name in ((1, Path(printed).with_suffix(".out")), (2, Path(printed))):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    # SIGUSR1 prints the stacks of a process that hangs.
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    os.environ.update({**environment, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    sys.argv = ["batchroute", *words]
    import torch

    from batchroute import cli

    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open(log, "a", buffering=1) as lines:
        _watch(lines, None)
        if prepare is not None:
            prepare()
        cli.main()


def _watch(lines: Any, crash: Crash | None) -> None:
    from batchroute.storage.local import LocalFolder
    from batchroute.storage.remote import RemoteFolder
    from batchroute.storage.units import Stage

    puts = 0

    def watched(put: Any) -> Any:
        def put_new(self: Any, name: str, data: Any, sync_folder: bool = True) -> bool:
            nonlocal puts
            mine, puts = puts, puts + 1
            if crash == Crash(mine, "before"):
                os._exit(CRASHED)
            created: bool = put(self, name, data, sync_folder)
            lines.write(f"put {self}/{name}\n")
            if crash == Crash(mine, "after"):
                os._exit(CRASHED)
            return created

        return put_new

    for folder in (LocalFolder, RemoteFolder):
        folder.put_new = watched(folder.put_new)  # type: ignore[method-assign]
    commit = Stage.commit

    def committed(self: Stage, facts: Any, *arguments: Any) -> Any:
        receipt = commit(self, facts, *arguments)
        lines.write(f"unit {self._receipts}/{facts.unit}.json\n")
        return receipt

    Stage.commit = committed  # type: ignore[assignment, method-assign]
