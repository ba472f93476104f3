"""The Indexed Job of jobs/kubernetes, imitated: its pods, each of which is started again until it succeeds.

Where this machine lets nobody make a pod, the same commands run without one.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from batchroute.engines.ranks.engine import JOIN_SECONDS
from batchroute.errors import EXIT_BAD_INPUT, EXIT_FAILED_ROWS, EXIT_OK, EXIT_TERMINATED, EXIT_WAITING
from tests.crash.forked_ranks import fork_ranks
from tests.crash.gate import Gate
from tests.crash.ranks import free_port, hashes, receipts
from tests.engines.ranks.launching import Ended, Launched
from tests.kubernetes.overlays import templates
from tests.kubernetes.pods import Node, Pod, can_enter
from tests.support.jobs import JobFolder, table
from tests.support.waiting import wait_for

PODS = 3
JOB = "batchroute-indexed-2026-11-24"
FINAL = (EXIT_OK, EXIT_FAILED_ROWS, EXIT_BAD_INPUT, EXIT_WAITING)
"""Codes after which a pod is not started again, as the manifest's podFailurePolicy has it."""


class Controller:
    """Starts pods, and starts a pod again if it ends with a code that a retry may help."""

    def __init__(self, folder: Path, cache: Path) -> None:
        """
        Args:
            cache: the volume that all pods share.
        """
        self._folder, self._cache, self.port = folder, cache, free_port()
        (cache / "gate").mkdir()
        self.gate = Gate(cache / "gate")
        self.gate.let_through(0)
        self.started = [0] * PODS
        self.pods: dict[int, Launched] = {}
        self.ended: dict[int, Ended] = {}
        self.codes: list[int] = []
        self.said = ""

    @property
    def shared(self) -> str:
        """Where pods see the shared volume."""
        return "/cache" if can_enter() else str(self._cache)

    def start(self, index: int) -> None:
        self.started[index] += 1
        if can_enter():
            of_three = functools.partial(_of_three, port=self.port)
            self.pods[index] = self._launched(index, of_three, then=[Gate(Path("/cache/gate"))])
            return
        given = {"JOB_COMPLETION_INDEX": str(index), "OMP_NUM_THREADS": "1"}
        words = ["batchroute", "run", self._job, "--json-logs", "--nodes", str(PODS)]
        ranks = self._folder / f"ranks-{index}-{self.started[index]}"
        words += ["--master", f"127.0.0.1:{self.port}"]
        self.pods[index] = Launched(self._folder, words, given, functools.partial(_prepare, ranks, self.gate), ranks)

    def run_alone(self, name: str) -> Ended:
        """The job in one pod, into a folder of the shared volume."""
        output = f"output.uri={self.shared}/{name}"
        if can_enter():
            return self._launched(0, str, "run", "/etc/batchroute/nightly.yaml", "--set", output).end()
        return Launched(self._folder, ["batchroute", "run", self._job, "--set", output]).end()

    @property
    def _job(self) -> str:
        return str(self._folder / "config" / "nightly.yaml")

    def _launched(
        self, index: int, change: Callable[[str], str], *words: str, then: Sequence[Callable[[], object]] = ()
    ) -> Launched:
        """
        Args:
            words: of the command, in place of the manifest's.
        """
        folder = self._folder / f"pod-{index}-{self.started[index]}"
        volumes = {"/cache": self._cache, "/etc/batchroute": self._folder / "config"}
        node = Node(folder / "root", volumes, (f"{JOB}-0.batchroute-nodes",))
        given = {"JOB_COMPLETION_INDEX": str(index), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "JOB_NAME": JOB}
        (template,) = (one for one in templates("indexed") if one.job is not None)
        return Pod(template, node, given, change).launched(folder, *words, then=then)

    def look(self) -> bool:
        """Whether all pods have ended for good."""
        for index, pod in list(self.pods.items()):
            if pod.code is not None:
                ended = pod.end()
                self.codes.append(ended.code)
                self.said += ended.err
                del self.pods[index]
                if ended.code in FINAL:
                    self.ended[index] = ended
                else:
                    self.start(index)
        return len(self.ended) == PODS

    def kill(self, index: int) -> None:
        """The pod and all that runs in it, at once."""
        self.pods[index].kill()

    def terminate(self, index: int) -> None:
        """As the cluster begins to end a pod: SIGTERM to its first process."""
        pid = self.pods[index].process.pid
        assert pid is not None
        os.kill(pid, signal.SIGTERM)

    def is_awaited(self) -> bool:
        """Whether the pod of index 0 takes connections."""
        with socket.socket() as there:
            return there.connect_ex(("127.0.0.1", self.port)) == 0


def _prepare(ranks: Path, gate: Gate) -> None:
    fork_ranks(ranks)
    gate()


def _of_three(word: str, port: int) -> str:
    """An argument of the manifest, for other sizes: machines, and a port that is free here."""
    return word.replace("--nodes=4", f"--nodes={PODS}").replace(":29500", f":{port}")


def kinds_of_events(file: Path, output: str) -> list[str]:
    """Of the one run that wrote to this output."""
    events = [json.loads(line) for line in file.read_text().splitlines()]
    of_run = [event for event in events if event["outputs"][0]["name"].endswith(f"/{output}")]
    assert len({event["run"]["runId"] for event in of_run}) == 1
    return [event["eventType"] for event in of_run]


@pytest.mark.crash
def test_pods_that_come_late_and_die_come_back_and_all_succeed(tmp_path: Path) -> None:
    (cache := tmp_path / "cache").mkdir()
    (tmp_path / "config").mkdir()
    job = JobFolder(cache, table(800), units={"score": 10, "generate": 5, "merge": 100})
    job.output = cache / "by-pods"
    controller = Controller(tmp_path, cache)
    places = {"input": ("uri", "in.parquet"), "output": ("uri", "by-pods"), "router": ("model", "router")}
    for section, (key, name) in places.items():
        job.settings[section][key] = f"{controller.shared}/{name}"
    job.settings["lineage"] = {"file": f"{controller.shared}/events.jsonl"}
    (tmp_path / "config" / "nightly.yaml").write_text(yaml.safe_dump(job.settings))
    assert controller.run_alone("alone").code == EXIT_OK
    alone = hashes(cache / "alone")
    try:
        for index in range(PODS - 1):
            controller.start(index)
        wait_for(lambda: controller.look() or controller.is_awaited())
        controller.start(PODS - 1)
        for end, victim, units in ((controller.terminate, 1, 20), (controller.kill, 1, 60), (controller.kill, 0, 140)):
            controller.gate.let_through(units)
            wait_for(lambda: controller.look() or controller.gate.is_shut)
            before = receipts(job.output)
            end(victim)
            wait_for(lambda: controller.look() or len(controller.codes) >= PODS)
            assert end == controller.kill or set(controller.codes) == {EXIT_TERMINATED}
            controller.codes.clear()
        controller.gate.let_through(10_000)
        wait_for(controller.look)
        assert [controller.ended[index].code for index in range(PODS)] == [EXIT_OK] * PODS
        assert hashes(job.output) == alone
        assert controller.said.count("rank 1 of 3 died; run again to go on") >= 1
        # Rank 0 is dead: each other rank reports it in its own log.
        assert controller.said.count("rank 0 of 3 died; run again to go on") >= 2
        # For a log collector: no line of torch stands between those of the run.
        assert all(json.loads(line)["time"] for line in controller.said.splitlines())
        after = receipts(job.output)
        assert {name: after[name] for name in before} == before
        # Rank 0 alone sends events of lineage; when it was killed, it sent no end.
        events = kinds_of_events(cache / "events.jsonl", str(job.output.name))
        assert events.index("ABORT") < events.index("FAIL") < events.index("COMPLETE") == len(events) - 1
        assert events.count("START") >= 4
        # Kubernetes starts a pod once more: it must not wait ten minutes for pods that have ended.
        controller.start(2)
        del controller.ended[2]
        wait_for(controller.look, JOIN_SECONDS / 2)
        assert controller.ended[2].code == EXIT_OK
    finally:
        for pod in controller.pods.values():
            pod.kill()
