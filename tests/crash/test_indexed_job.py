"""An imitated Indexed Job of Kubernetes: each pod knows only its index, and is started again until it succeeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchroute.engines.ranks.engine import JOIN_SECONDS
from batchroute.errors import EXIT_BAD_INPUT, EXIT_FAILED_ROWS, EXIT_OK, EXIT_WAITING
from tests.crash.ranks import free_port, hashes, receipts
from tests.engines.ranks.launching import Ended, Launched
from tests.support.jobs import JobFolder, table
from tests.support.waiting import wait_for

PODS = 3
FINAL = (EXIT_OK, EXIT_FAILED_ROWS, EXIT_BAD_INPUT, EXIT_WAITING)
"""Codes after which a pod is not started again, as the manifest's podFailurePolicy has it."""


class Controller:
    """Starts pods, and starts a pod again if it ends with a code that a retry may help."""

    def __init__(self, job: JobFolder) -> None:
        self._folder, self._path = job.folder, job.path
        self._master = f"127.0.0.1:{free_port()}"
        self.started = [0] * PODS
        self.pods: dict[int, Launched] = {}
        self.ended: dict[int, Ended] = {}
        self.codes: list[int] = []
        self.said = ""

    def start(self, index: int) -> None:
        self.started[index] += 1
        words = ["batchroute", "run", self._path, "--nodes", str(PODS), "--master", self._master]
        self.pods[index] = Launched(self._folder, words, {"JOB_COMPLETION_INDEX": str(index), "OMP_NUM_THREADS": "1"})

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


@pytest.mark.crash
def test_pods_that_are_killed_come_back_and_all_succeed(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(800), units={"score": 10, "generate": 5, "merge": 100})
    job.run()
    alone = hashes(job.output)
    job.output = tmp_path / "by-pods"
    job.settings["output"]["uri"] = str(job.output)
    controller = Controller(job)
    try:
        for index in range(PODS):
            controller.start(index)
        for victim, units in ((1, 20), (0, 100)):
            wait_for(lambda units=units: controller.look() or len(receipts(job.output)) > units)
            before = receipts(job.output)
            controller.kill(victim)
            wait_for(lambda: controller.look() or len(controller.codes) >= PODS)
            controller.codes.clear()
        wait_for(controller.look)
        assert [controller.ended[index].code for index in range(PODS)] == [EXIT_OK] * PODS
        assert hashes(job.output) == alone
        assert controller.said.count("error: rank 1 of 3 died; run again to go on") >= 1
        # Rank 0 is dead: each other rank reports it in its own log.
        assert controller.said.count("error: rank 0 of 3 died; run again to go on") >= 2
        assert "frame #" not in controller.said
        after = receipts(job.output)
        assert {name: after[name] for name in before} == before
        # Kubernetes starts a pod once more: it must not wait ten minutes for pods that have ended.
        controller.start(2)
        del controller.ended[2]
        wait_for(controller.look, JOIN_SECONDS / 2)
        assert controller.ended[2].code == EXIT_OK
    finally:
        for pod in controller.pods.values():
            pod.kill()
