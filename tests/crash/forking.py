"""Attempts at a job in processes that start in milliseconds and end where a test wants.

A server process, which has imported all that a job needs, forks them. The pictures of their reports are not drawn.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from tests.support import pictures

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.crash.imports"])

CRASHED = 99

Stored = dict[str, bytes]
"""The files of an output and its work folder, by their names from the end of the output's name on."""


@dataclass(frozen=True)
class Crash:
    """End by `os._exit` before or after the put of this number, counted from 0 in the attempt."""

    put: int
    when: Literal["before", "after"]


def start(
    job: str,
    log: Path,
    environment: dict[str, str] | None = None,
    crash: Crash | None = None,
    keep: Path | None = None,
    prepare: Callable[[], object] | None = None,
) -> BaseProcess:
    """Start an attempt.

    Args:
        log: gets a line for each put that was made and each unit that was committed.
        keep: a new folder for what was stored before each put and after the last one, see `moments`.
        prepare: called in the process before the job, to plant a fault.
    """
    process = _context.Process(target=_attempt, args=(job, str(log), environment or {}, crash, keep, prepare))
    process.start()
    return process


def run(
    job: str,
    log: Path,
    environment: dict[str, str] | None = None,
    crash: Crash | None = None,
    keep: Path | None = None,
    prepare: Callable[[], object] | None = None,
) -> int:
    """Run an attempt to its end; returns its exit code, negative for a signal."""
    process = start(job, log, environment, crash, keep, prepare)
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


def moments(keep: Path) -> list[Stored]:
    """What an attempt had stored before each put, and after the last one."""
    return [pickle.loads(file.read_bytes()) for file in sorted(keep.iterdir())]


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


def _attempt(
    path: str,
    log: str,
    environment: dict[str, str],
    crash: Crash | None,
    keep: Path | None,
    prepare: Callable[[], object] | None,
) -> None:
    os.environ.update({**environment, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    import torch

    from batchroute.config import loading
    from batchroute.errors import EXIT_TERMINATED, BatchrouteError, Terminated
    from batchroute.pipeline import run as job
    from batchroute.progress import PlainProgress

    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pictures.draw_nothing()
    if prepare is not None:
        prepare()
    with open(log, "a", buffering=1) as lines:
        try:
            loaded = loading.load(path)
            _watch(lines, crash, None if keep is None else _Keeper(keep, loaded.output.uri))
            with open(os.devnull, "w") as nowhere:
                outcome = job.run(loaded, PlainProgress(nowhere))
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
    pictures.draw_nothing()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open(log, "a", buffering=1) as lines:
        _watch(lines, None)
        if prepare is not None:
            prepare()
        cli.main()


class _Keeper:
    """Keeps what is stored of an output and its work folder, each time that it is asked."""

    def __init__(self, folder: Path, output: str) -> None:
        folder.mkdir()
        self._folder, self._output, self._contents = folder, output, Stored()
        self._filesystem, self._lock = filesystem_of(output), threading.Lock()

    def keep(self, moment: int) -> None:
        """As this moment, in place of what was kept as it before. Files are never changed: each is read once."""
        with self._lock:
            self._contents = stored(self._output, self._filesystem, self._contents)
            (self._folder / f"{moment:05d}").write_bytes(pickle.dumps(self._contents))


def filesystem_of(output: str) -> Any:
    """To be kept: to make one for S3 takes longer than many requests."""
    import fsspec

    protocol = output.partition("://")[0] if "://" in output else "file"
    if protocol in ("s3", "file"):
        return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)
    from batchroute.storage.store import store_of

    return store_of(output).filesystem


def stored(output: str, filesystem: Any, known: Stored) -> Stored:
    """What is stored of an output and its work folder.

    Args:
        known: files that need not be read again.
    """
    roots, contents = (output, f"{output}.work"), Stored()
    if not output.startswith("s3:"):
        for file in (file for root in roots for file in Path(root).rglob("*")):
            name = str(file)[len(output) :]
            # Other threads put files at the same time.
            if file.is_file() and not file.name.startswith(".tmp-"):
                contents[name] = known.get(name) or file.read_bytes()
        return contents
    start = len(filesystem._strip_protocol(output))
    for root in roots:
        for name, entry in filesystem.find(root, detail=True).items():
            # The server lists an emptied folder as an entry of its own.
            if entry["type"] == "file" and entry["size"] > 0:
                contents[name[start:]] = known.get(name[start:]) or filesystem.cat_file(name)
    return contents


def _watch(lines: Any, crash: Crash | None, keeper: _Keeper | None = None) -> None:
    from batchroute.storage.local import LocalFolder
    from batchroute.storage.remote import RemoteFolder
    from batchroute.storage.units import Stage

    puts = 0

    def watched(put: Any) -> Any:
        def put_new(self: Any, name: str, data: Any, sync_folder: bool = True) -> bool:
            nonlocal puts
            mine, puts = puts, puts + 1
            if keeper is not None:
                keeper.keep(mine)
            if crash == Crash(mine, "before"):
                os._exit(CRASHED)
            created: bool = put(self, name, data, sync_folder)
            lines.write(f"put {self}/{name}\n")
            if keeper is not None:
                keeper.keep(mine + 1)
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
