"""Ray clusters on this machine, and drivers that use them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engines.ray.units import SECONDS

# Loopback only, and nothing in the home directory. Ray reads these when it is imported.
ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "a-token-of-these-tests-alone",
    "RAY_USAGE_STATS_ENABLED": "0",
    # With the default niceness of 15, workers take ten seconds to start on busy cores instead of one.
    "RAY_worker_niceness": "0",
}
OBJECTS = 80 << 20


@contextmanager
def cluster(cpus: int) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` of one machine with `cpus` CPUs, whatever this machine has."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ALONE.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        head = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECTS}
        started = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield started
        finally:
            started.shutdown()


@dataclass
class Driver:
    """`batchroute run --engine ray` in a process of its own."""

    process: subprocess.Popen[bytes]
    printed: Path

    @classmethod
    def start(cls, job: str, printed: Path, *words: str, cwd: Path | None = None, **environment: str) -> Driver:
        """Start it.

        Args:
            printed: gets what it writes to stdout and stderr.
            environment: besides that of this process and `ALONE`.
        """
        command = [sys.executable, "-m", "batchroute", "run", job, "--engine", "ray", *words]
        here = {"PYTHONPATH": os.getcwd(), "HF_HUB_OFFLINE": "1", **os.environ, **ALONE, **environment}
        with open(printed, "wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=here, cwd=cwd)
        return cls(process, printed)

    def output(self) -> str:
        return self.printed.read_text()

    def events(self, kind: str) -> list[Mapping[str, Any]]:
        """The events of one kind in its JSON log."""
        lines = [json.loads(line) for line in self.output().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == kind]

    def join(self, seconds: float = SECONDS) -> int:
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


def workers(started: Any) -> set[int]:
    """The processes of the engine's workers on the first machine of a cluster."""
    (raylet,) = started.head_node.all_processes["raylet"]
    pids = set()
    for process in psutil.Process(raylet.process.pid).children():
        with suppress(psutil.NoSuchProcess, IndexError):
            if "RayWorker" in process.cmdline()[0]:
                pids.add(process.pid)
    return pids
