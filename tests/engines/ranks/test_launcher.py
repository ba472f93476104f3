"""Real launchers: several ranks of one run, whose outcome is reported once, with one exit code."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from batchroute.engines.ranks.launcher import LaunchPlan, exit_of, plan_launch
from batchroute.engines.ranks.world import DIED, World, cores
from batchroute.errors import EXIT_FAILED_ROWS, EXIT_OK, EXIT_TERMINATED, InputError
from tests.crash.ranks import free_port, hashes, receipts
from tests.engines.ranks.launching import Ended, Launched, launch
from tests.reports.export.test_notify import Hook
from tests.support.jobs import JobFolder, table
from tests.support.tiny_heads import tiny_heads
from tests.support.waiting import wait_for

TORCHRUN = World(1, 2, 1, 2, "127.0.0.1:29500", "torchrun")
UNITS = {"score": 20, "generate": 10, "merge": 40}


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path, table(300), units=UNITS)


def reported_once(ended: Ended) -> None:
    """stdout has the report once, and stderr has each line of progress once."""
    assert ended.out.count("test: 300 rows") == ended.out.count("Routing 300 prompts cost") == 1
    assert ended.err.count("300 rows in 1 files") == ended.err.count("score: 15/15 units · 300 rows") == 1
    assert "Traceback" not in ended.err


def test_processes_end_as_one_command_and_write_what_one_process_writes(tmp_path: Path) -> None:
    tiny_heads(tmp_path / "router")
    job = JobFolder(tmp_path, table(300), units=UNITS)
    job.run()
    alone = hashes(job.output)
    job.output = tmp_path / "by-two"
    job.settings["output"]["uri"] = str(job.output)
    ended = launch(tmp_path, ["-m", "batchroute", "run", job.path, "--processes", "2"])
    assert ended.code == EXIT_OK, ended.err
    reported_once(ended)
    assert hashes(job.output) == alone


@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--nproc-per-node", "2"],
        # Without GPUs it starts several processes only with this option.
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
    ],
    ids=["torchrun", "accelerate launch"],
)
def test_other_launchers_start_ranks_of_one_run(job: JobFolder, tmp_path: Path, launcher: list[str]) -> None:
    ended = launch(tmp_path, ["-m", *launcher, "-m", "batchroute", "run", job.path])
    assert ended.code == EXIT_OK, ended.err
    reported_once(ended)


def test_accelerate_that_starts_one_process_of_two_is_refused(job: JobFolder, tmp_path: Path) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    ended = launch(tmp_path, [*launcher, "-m", "batchroute", "run", job.path])
    assert ended.err.count("error: accelerate launch was asked for 2 processes and has started one") == 1
    # batchroute's exit code: accelerate itself always ends with 1.
    assert "returned non-zero exit status 2" in ended.err
    assert not job.output.exists()


def test_two_machines_are_two_commands(job: JobFolder, tmp_path: Path) -> None:
    master = f"127.0.0.1:{free_port()}"
    nodes = ["--nodes", "2", "--processes", "1", "--master", master]
    words = [["batchroute", "run", job.path, *nodes, "--node-rank", str(node)] for node in range(2)]
    with ThreadPoolExecutor() as pool:
        one, two = pool.map(lambda each: launch(tmp_path, each), words)
    assert (one.code, two.code) == (EXIT_OK, EXIT_OK), one.err + two.err
    reported_once(one)
    assert two.out + two.err == ""


def test_the_log_is_one_stream_with_the_units_of_all_ranks(job: JobFolder, tmp_path: Path) -> None:
    """More failed rows than `max_failed` are exit code 1."""
    frame = table(300).with_columns(prompt=pl.when(pl.int_range(300) % 3 == 0).then(None).otherwise("prompt"))
    frame.write_parquet(job.input, row_group_size=37)
    ended = launch(tmp_path, ["batchroute", "run", job.path, "--processes", "2", "--json-logs"])
    assert ended.code == EXIT_FAILED_ROWS, ended.err
    assert ended.out == ""
    lines = [json.loads(line) for line in ended.err.splitlines()]
    units = [(line["stage"], line["unit"]) for line in lines if line["event"] == "unit"]
    assert len(units) == len(set(units))
    done = {tuple(name.removesuffix(".json").split("/")[-2:]) for name in receipts(job.output) if "shards" not in name}
    assert {unit for unit in units if unit[0] != "partition"} == done
    assert [line["event"] for line in lines if line["event"] in ("begin", "failed")] == ["begin", "failed"]
    assert lines[-1]["event"] == "failed"


def test_what_is_wrong_is_reported_once_with_its_exit_code(job: JobFolder, tmp_path: Path) -> None:
    ended = launch(tmp_path, ["batchroute", "run", job.path, "--processes", "2", "--set", "input.prompt=nope"])
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: input.prompt: no column 'nope' in the input; it has id, prompt, team\n"


def test_a_signal_to_the_launcher_terminates_all(job: JobFolder, tmp_path: Path) -> None:
    table(20_000).write_parquet(job.input, row_group_size=370)
    with Launched(tmp_path, ["batchroute", "run", job.path, "--processes", "2"]) as launched:
        wait_for(lambda: len(receipts(job.output)) > 20)
        rank, pid = launched.rank(1), launched.process.pid
        assert rank is not None
        assert launched.variables(rank)["OMP_NUM_THREADS"] == str(max(1, cores() // 2))
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        ended = launched.end()
    assert ended.code == EXIT_TERMINATED, ended.err
    assert ended.err.count("terminated; run the same command again to go on") == 1
    assert "Traceback" not in ended.err


@pytest.mark.crash
def test_ranks_are_started_again_when_one_is_killed_and_no_failure_is_notified(job: JobFolder, tmp_path: Path) -> None:
    table(1500).write_parquet(job.input, row_group_size=370)
    with Hook(200) as hook:
        job.settings["notify"] = {"url": hook.url}
        with Launched(tmp_path, ["batchroute", "run", job.path, "--processes", "2", "--max-restarts", "1"]) as launched:
            wait_for(lambda: len(receipts(job.output)) > 20)
            before = receipts(job.output)
            rank = launched.rank(1)
            assert rank is not None
            rank.kill()
            ended = launched.end()
        hook.shutdown()
    assert ended.code == EXIT_OK, ended.err
    assert ended.err.count("starting all ranks of this machine again") == 1
    assert ended.err.count("rank 1 of 2 died") == 1
    assert [body["event"] for body in hook.bodies] == ["done"]
    after = receipts(job.output)
    assert {name: after[name] for name in before} == before
    assert job.answers().height == 1500


@pytest.mark.parametrize(
    ("codes", "code", "message"),
    [
        ({0: 2, 1: -15}, 2, ""),
        ({1: 1, 0: -15}, 1, ""),
        ({1: 143, 0: -9}, 143, ""),
        ({0: -15, 1: -15}, 143, ""),
        # Rank 0 has reported the death.
        ({1: -9, 0: DIED}, DIED, ""),
        ({0: DIED, 1: -9, 2: -15}, DIED, ""),
        # Rank 0 has not reported it, or is dead.
        ({1: -9, 0: 143}, DIED, "rank 1 of 3 was killed by SIGKILL (out of memory?)"),
        ({2: -11, 0: -15, 1: -15}, DIED, "rank 2 of 3 was killed by SIGSEGV"),
        ({0: -9, 1: DIED}, DIED, "rank 0 of 3 was killed by SIGKILL (out of memory?)"),
    ],
)
def test_the_rank_that_ended_first_decides_on_the_exit_code(codes: dict[int, int], code: int, message: str) -> None:
    assert exit_of(LaunchPlan(3), codes) == (code, message)


def test_a_launcher_reports_a_death_on_another_machine_than_rank_zeros() -> None:
    death = (DIED, "rank 3 of 4 was killed by SIGKILL (out of memory?)")
    assert exit_of(LaunchPlan(2, 2, 1, "a:1"), {1: -9, 0: DIED}) == death
    assert exit_of(LaunchPlan(2, 2, 1, "a:1"), {0: DIED, 1: DIED}) == (DIED, "")


def test_no_ranks_are_started_by_one_that_was_started() -> None:
    assert plan_launch("2", 1, None, None, TORCHRUN) is None
    assert plan_launch(None, 1, None, None, World(0, 1, 0, 1, None, "batchroute")) is None
    assert plan_launch(None, 1, None, None, World()) is None


def test_the_index_of_a_job_is_the_rank_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert plan_launch(None, 3, None, "first", World()) == LaunchPlan(1, 3, 2, "first:29500")
    assert plan_launch("2", 3, 1, "first:4000", World()) == LaunchPlan(2, 3, 1, "first:4000")


@pytest.mark.parametrize(
    ("processes", "nodes", "node_rank", "master", "world", "sentence"),
    [
        ("3", 1, None, None, TORCHRUN, "3 ranks are expected .*, but torchrun has started 2; make the two agree"),
        ("2", 2, 0, "a:1", TORCHRUN, "4 ranks are expected .*, but torchrun has started 2"),
        ("0", 1, None, None, World(), "--processes is a number from 1, or auto; it is '0'"),
        ("many", 1, None, None, World(), "--processes is a number from 1, or auto; it is 'many'"),
        ("9999", 1, None, None, World(), "--processes 9999: this machine has "),
        (None, 1, 0, None, World(), "--node-rank is for several machines: give --nodes too"),
        (None, 1, None, "a:1", World(), "--master is for several machines: give --nodes too"),
        (None, 2, None, "a:1", World(), "--nodes 2 needs --node-rank, from 0 to 1, or JOB_COMPLETION_INDEX"),
        (None, 2, 2, "a:1", World(), "--node-rank is 2, but --nodes 2 has the machines 0 to 1"),
        (None, 2, 1, None, World(), "--nodes 2 needs --master HOST:PORT"),
        (None, 2, 1, "a:x", World(), "--master a:x: 'x' is no port; write HOST:PORT"),
    ],
)
def test_options_that_contradict_each_other_are_one_sentence(
    processes: str | None, nodes: int, node_rank: int | None, master: str | None, world: World, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        plan_launch(processes, nodes, node_rank, master, world)
