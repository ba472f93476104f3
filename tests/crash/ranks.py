"""Ranks of one run in processes that start in milliseconds, as `torchrun` or a plain environment describes them."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from batchroute.storage.local import LocalFolder
from tests.crash import forking
from tests.support.jobs import JobFolder

PROMISED = 15.0
"""Seconds from the death of a rank to the end of the other ranks, on a machine that is not busy."""


@dataclass
class Rank:
    """
    Attributes:
        printed: what it wrote to stderr.
        log: its puts and units, see `forking.command`.
    """

    process: BaseProcess
    printed: Path
    log: Path

    def said(self) -> str:
        return self.printed.read_text() if self.printed.exists() else ""

    @property
    def units(self) -> list[str]:
        """The receipts that it has put."""
        return forking.lines(self.log, "unit")

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self.process.exitcode


@dataclass
class World:
    """The ranks of one attempt."""

    ranks: list[Rank]

    def join(self, seconds: float = 120.0) -> list[int]:
        """Wait until all ranks have ended; returns their exit codes."""
        until = time.monotonic() + seconds
        for rank in self.ranks:
            rank.process.join(max(0.0, until - time.monotonic()))
        codes = [rank.exit_code for rank in self.ranks]
        if None in codes:
            self.show_stacks()
            self.kill()
        assert None not in codes, (codes, self.said())
        return [code for code in codes if code is not None]

    def show_stacks(self) -> None:
        """Make the ranks that still run print the stack of each of their threads."""
        for rank in self.ranks:
            if rank.exit_code is None:
                rank.signal(signal.SIGUSR1)
        time.sleep(1)

    def kill(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.process.join()

    def said(self) -> str:
        return "".join(rank.said() for rank in self.ranks)

    @property
    def units(self) -> list[str]:
        return [unit for rank in self.ranks for unit in rank.units]


@dataclass
class Ranks:
    """Starts attempts at a job, each by several ranks.

    Attributes:
        words: of every command.
        attempts: those at the output that the job has now.
    """

    job: JobFolder
    words: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    attempts: list[World] = field(default_factory=list)
    _outputs: int = 0
    _started: int = 0

    def new_output(self) -> Path:
        """Point the job to an output that nothing has been written to."""
        self._outputs += 1
        self.attempts = []
        self.job.output = self.job.folder / f"out{self._outputs}"
        self.job.settings["output"]["uri"] = str(self.job.output)
        return self.job.output

    def start(self, size: int, *words: str, faults: Mapping[int, Callable[[], object]] | None = None) -> World:
        """Start all ranks of an attempt.

        Args:
            faults: by rank; called there before the command.
        """
        port, path = str(free_port()), self.job.path
        ranks = [
            self._start(path, environment_of(rank, size, port) if size > 1 else {}, words, (faults or {}).get(rank))
            for rank in range(size)
        ]
        self.attempts.append(World(ranks))
        return self.attempts[-1]

    def start_rank(
        self, environment: Mapping[str, str], *words: str, fault: Callable[[], object] | None = None
    ) -> Rank:
        """Start one process, whose environment says which rank it is."""
        return self._start(self.job.path, environment, words, fault)

    def run(self, size: int, *words: str, seconds: float = 120.0) -> World:
        """Start all ranks of an attempt and wait until they end with exit code 0."""
        world = self.start(size, *words)
        codes = world.join(seconds)
        assert codes == [0] * size, (codes, world.said())
        return world

    @property
    def units(self) -> list[str]:
        """The receipts that all attempts have put."""
        return [unit for world in self.attempts for unit in world.units]

    def _start(
        self, path: str, environment: Mapping[str, str], words: Sequence[str], fault: Callable[[], object] | None = None
    ) -> Rank:
        self._started += 1
        stem = f"{self.job.output.name}-{self._started}"
        printed, log = self.job.folder / f"{stem}.printed", self.job.folder / f"{stem}.log"
        command = ["run", path, *self.words, *words]
        return Rank(forking.command(command, printed, log, {**self.environment, **environment}, fault), printed, log)


def environment_of(rank: int, size: int, port: str) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def hashes(output: Path) -> dict[str, str]:
    """The sha256 of every data file, without the temporary files that a killed put left next to them."""
    left = LocalFolder(output / "data").leftovers(older_than=0)
    files = sorted(file for file in (output / "data").iterdir() if str(file) not in left)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def receipts(output: Path) -> dict[str, bytes]:
    """The receipts of all units, by their name in the log."""
    work = output.with_name(output.name + ".work")
    return {str(path): path.read_bytes() for path in work.glob("*/**/*.json") if path.stem.isdigit()}


def hold(begun: Path, deaf: bool = False) -> None:
    """Make the file `begun`, then sleep for longer than any test waits.

    Args:
        deaf: block signals, as a long computation that does not return to Python.
    """
    if deaf:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    begun.touch()
    time.sleep(600)
