"""Whole jobs by the Ray engine: the same bytes, drivers that are killed, what an operator sees."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import batchroute
from batchroute.commands.run import Options
from batchroute.commands.run import run as run_command
from batchroute.engines.local import LocalEngine
from batchroute.engines.ray.engine import RayEngine
from batchroute.engines.ray.pools import PoolSpec, RaySpec
from batchroute.errors import EXIT_BAD_INPUT, EXIT_OK, EXIT_TERMINATED, InputError, StoppedError
from batchroute.pipeline.context import join
from batchroute.pipeline.run import run
from batchroute.progress import JsonProgress, NoProgress, PlainProgress, Progress
from batchroute.reports.night import REPORT
from tests.crash.ranks import hashes, receipts
from tests.engines.ray.ray_jobs import Driver, cluster, workers
from tests.generators.transformers.tiny_generators import tiny_decoder
from tests.support.jobs import JobFolder, table
from tests.support.openai_server.process import ServerProcess
from tests.support.tiny_heads import tiny_heads
from tests.support.waiting import wait_for

# Words of Ray's own log lines, which a run must not print.
RAYS_OWN = re.compile(r"raylet|[Tt]oken auth|dashboard|gcs_|INFO |WARNING|ERROR|\[3[36]mray")


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[Any]:
    with cluster(2) as started:
        yield started


def run_with(job_folder: JobFolder, address: str, **pools: PoolSpec) -> str:
    """Run it on the cluster; returns the log."""
    stream = io.StringIO()
    with closing(RayEngine(PlainProgress(stream), RaySpec(address=address, **pools))) as engine:
        outcome = run(job_folder.load(), engine.progress, engine=engine)
    assert outcome.exit_code == EXIT_OK
    return stream.getvalue()


def new_output(folder: JobFolder) -> JobFolder:
    folder.output = folder.folder / "by-ray"
    folder.settings["output"]["uri"] = str(folder.output)
    return folder


def audit_of(folder: JobFolder) -> dict[str, Any]:
    audit: dict[str, Any] = json.loads((folder.output / "report" / REPORT).read_text())["audit"]
    return audit


class _UpToTheScores(LocalEngine):
    @contextmanager
    def overlapped(self, do: Callable[[], object]) -> Iterator[None]:
        raise StoppedError("all rows are scored")
        yield


def begun_here(folder: JobFolder) -> JobFolder:
    """The job, with its rows scored and partitioned by this process: the next attempt may use another engine."""
    with pytest.raises(StoppedError, match="all rows are scored"):
        run(folder.load(), NoProgress(), engine=_UpToTheScores(NoProgress()))
    return folder


ONE = PoolSpec(max=1, num_cpus=0.5)


@pytest.mark.parametrize("rows", [1, 5])
def test_a_small_job_that_began_here_is_the_same_bytes(tmp_path: Path, two_cpus: Any, rows: int) -> None:
    folder = JobFolder(tmp_path, table(rows), units={"score": 2, "generate": 2, "merge": 2})
    folder.run()
    here = hashes(folder.output)
    assert len(here) == -(-rows // 2)
    log = run_with(begun_here(new_output(folder)), two_cpus.address)
    assert hashes(folder.output) == here
    assert "loading the router" not in log


def test_python_code_runs_it_too(tmp_path: Path, two_cpus: Any) -> None:
    folder = JobFolder(tmp_path, table(2), units={"score": 2, "generate": 2, "merge": 2})
    folder.run()
    here, before = hashes(folder.output), signal.getsignal(signal.SIGTERM)
    begun_here(new_output(folder))
    assert batchroute.run(folder.settings, {"ray.address": two_cpus.address}, engine="ray").rows == 2
    assert hashes(folder.output) == here
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_large_job_is_the_same_bytes(tmp_path: Path, two_cpus: Any) -> None:
    tiny_heads(tmp_path / "router")
    folder = JobFolder(tmp_path, table(1000), units={"score": 100, "generate": 20, "merge": 300})
    folder.run()
    here = hashes(folder.output)
    log = run_with(new_output(folder), two_cpus.address, router=ONE)
    assert hashes(folder.output) == here
    assert "Ray: 1 machine with 2 CPUs and 0 GPUs" in log
    assert log.count("loading the router") == 1


def test_real_models_in_every_stage_are_the_same_bytes(tmp_path: Path, two_cpus: Any) -> None:
    folder = JobFolder(tmp_path, table(120), units={"score": 40, "generate": 16, "merge": 64})
    folder.use_every_stage()
    for seed, side in enumerate(("small", "large")):
        model = tiny_decoder(tmp_path / side, chat=True, seed=seed)
        settings: dict[str, Any] = {"backend": "transformers", "model": str(model)}
        folder.settings["models"][side] |= {**settings, "generation": {"max_new_tokens": 8}}
    # Without a router no row skips the small model, and some are left to be deferred.
    del folder.settings["router"]
    folder.settings["policy"]["small_share"] = "10%"
    folder.settings["models"]["small"] |= {"escalate": {"regex": "[^e]*"}, "on_failure": None}
    rows = folder.run().report.rows
    assert rows["calibration_large"] == 50
    assert rows["escalated"] > 0
    assert rows["deferred"] > 0
    here, audited = hashes(folder.output), audit_of(folder)
    run_with(new_output(folder), two_cpus.address, router=ONE, small=ONE, large=ONE)
    assert hashes(folder.output) == here
    assert audit_of(folder) == audited
    assert audited["measured"] > 0
    assert folder.answers()["response"].n_unique() > 20


def test_an_endpoint_is_asked_by_the_driver_alone(
    tmp_path: Path, two_cpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of this process: the workers of the cluster have none.
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with ServerProcess(tmp_path / "server") as server:
        large = {"backend": "openai", "model": "large", "endpoint": server.url, "price": {"input": 1, "output": 1}}
        folder = JobFolder(tmp_path, table(40), units={"score": 40, "generate": 10, "merge": 40})
        folder.settings["models"]["large"] = large
        # No worker could be started for it.
        run_with(begun_here(folder), two_cpus.address, small=ONE, large=PoolSpec(num_gpus=64))
        assert sum(server.served().values()) == 16
    assert set(folder.answers()["status"]) == {"ok"}


@pytest.fixture
def slow(tmp_path: Path, two_cpus: Any) -> JobFolder:
    """A job of many small units."""
    units = {"score": 200, "generate": 1, "merge": 200}
    ray = {"address": two_cpus.address, "small": {"max": 1}, "large": {"max": 1}}
    after = {"small_share": "60%", "decide": "after"}
    return begun_here(JobFolder(tmp_path, table(400), units=units, ray=ray, policy=after))


def begun(folder: JobFolder, units: int) -> bool:
    return len([name for name in receipts(folder.output) if "/small/" in name and "/shards/" not in name]) >= units


def test_when_the_driver_is_killed_its_workers_end_and_a_run_without_ray_does_the_rest(
    slow: JobFolder, two_cpus: Any
) -> None:
    first = Driver.start(slow.path, slow.folder / "first.log", "--json-logs")
    wait_for(lambda: begun(slow, 20))
    started = workers(two_cpus)
    assert started
    os.kill(min(started), signal.SIGKILL)
    wait_for(lambda: first.events("lost"))
    first.signal(signal.SIGKILL)
    assert first.join() == -signal.SIGKILL
    assert not RAYS_OWN.search(first.output())
    assert len(first.events("lost")) == 1
    wait_for(lambda: not workers(two_cpus))
    before = receipts(slow.output)
    assert len(before) >= 20
    assert slow.run().report.rows["deferred"] == 160
    assert before.items() <= receipts(slow.output).items()
    assert slow.answers()["id"].to_list() == table(400)["id"].to_list()
    assert not workers(two_cpus)


def test_sigterm_ends_the_driver_and_its_workers_at_once(slow: JobFolder, two_cpus: Any) -> None:
    driver = Driver.start(slow.path, slow.folder / "printed")
    wait_for(lambda: begun(slow, 10))
    driver.signal(signal.SIGTERM)
    assert driver.join() == EXIT_TERMINATED, driver.output()
    assert not (slow.output / "manifest.json").exists()
    assert driver.output().splitlines()[-1] == "terminated; run the same command again to go on"
    assert not RAYS_OWN.search(driver.output())
    wait_for(lambda: not workers(two_cpus))


def test_on_a_terminal_a_cluster_of_its_own_leaves_no_line_of_ray(tmp_path: Path) -> None:
    """With paths that are relative to the folder that the command is run in, and a home that cannot be written to."""
    folder = JobFolder(tmp_path, table(60), units={"score": 30, "generate": 10, "merge": 60})
    folder.settings |= {"ray": {"small": {"num_cpus": 0.5, "max": 1}, "large": {"num_cpus": 0.5, "max": 1}}}
    folder.settings["input"]["uri"], folder.settings["output"]["uri"] = "in.parquet", "out"
    folder.settings["router"]["model"] = "router"
    command = [sys.executable, "-m", "batchroute", "run", folder.path, "--engine", "ray"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": os.getcwd(), "HF_HUB_OFFLINE": "1", "HOME": "/proc/nobody"}
    # Its workers, as those of the other clusters of these tests, are not to wait for other tests.
    environment |= {"MPLCONFIGDIR": str(tmp_path), "TERM": "xterm", "RAY_worker_niceness": "0"}
    screen, terminal = pty.openpty()
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment, cwd=tmp_path)
    os.close(terminal)
    shown = _read(screen)
    assert process.wait() == EXIT_OK, shown
    assert not RAYS_OWN.search(shown), shown
    assert "Traceback" not in shown
    assert "Ray: 1 machine with" in shown
    assert re.search(r"small .* units", shown)
    assert re.search(r"large .* units", shown)
    assert len(folder.answers()) == 60


def _read(screen: int) -> str:
    shown = b""
    try:
        while data := os.read(screen, 65536):
            shown += data
    except OSError:
        # The other side is closed.
        pass
    os.close(screen)
    return shown.decode()


def test_what_is_committed_needs_no_ray(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(5))
    folder.run()
    with closing(RayEngine(NoProgress(), RaySpec(address="127.0.0.1:1"))) as engine:
        assert run(folder.load(), engine.progress, engine=engine).was_done


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(5))
    driver = Driver.start(folder.path, tmp_path / "printed", RAY_ADDRESS="127.0.0.1:1")
    assert driver.join() == EXIT_BAD_INPUT
    assert driver.output().splitlines()[1:] == [
        "error: no Ray cluster at 127.0.0.1:1: Connection refused; fix ray.address or RAY_ADDRESS, or unset them to "
        "start one on this machine"
    ]


def test_without_ray_one_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^--engine ray needs a package: pip install 'batchroute\[ray\]'$"):
        run_command(JobFolder(tmp_path, table(5)).path, (), Options(engine="ray"))


def test_ray_with_processes_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--engine ray is one process, which hands units out: leave out"):
        run_command(JobFolder(tmp_path, table(5)).path, (), Options(engine="ray", processes="2"))


def test_a_worker_that_does_not_see_the_output_says_so(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(5))
    with pytest.raises(InputError, match=r"does not see .*: all machines of a run need the same output.uri"):
        join(folder.load(), "0" * 16, LocalEngine(NoProgress()))


class _Slow(io.StringIO):
    def write(self, text: str) -> int:
        written = super().write(text)
        time.sleep(0.0001)
        return written


def test_lines_of_two_stages_are_whole() -> None:
    for progress in (PlainProgress(stream := _Slow()), JsonProgress(stream)):
        both = [threading.Thread(target=_write, args=(progress,)) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 200
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d a line|\{.*\}", line) for line in lines)


def _write(progress: Progress) -> None:
    for _ in range(50):
        progress.note("noted", "a line")
