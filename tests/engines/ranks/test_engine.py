"""Ranks of one run: they write what one process writes, keep one limit, and end together."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from batchroute.engines.ranks.engine import joined
from batchroute.engines.ranks.world import World
from batchroute.errors import EXIT_STOPPED
from batchroute.reports.night import REPORT
from tests.crash import forking
from tests.crash.ranks import Ranks, environment_of, free_port, hashes, receipts
from tests.generators.transformers.tiny_generators import tiny_decoder
from tests.support.jobs import JobFolder, table

SIZES = (1, 2, 3)


def worlds(job: JobFolder) -> dict[int, Path]:
    """The outputs of worlds of all sizes, which must be the same."""
    ranks, outputs = Ranks(job), {}
    for size in SIZES:
        outputs[size] = ranks.new_output()
        ranks.run(size)
        assert len(set(ranks.units)) == len(ranks.units) > 0
    alone, *others = (hashes(output) for output in outputs.values())
    assert all(other == alone for other in others)
    return outputs


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_more_ranks_than_units_write_the_same_bytes(tmp_path: Path, rows: int) -> None:
    job = JobFolder(tmp_path, table(rows), units={"score": 2, "generate": 2, "merge": 2})
    assert len(hashes(worlds(job)[1])) == -(-rows // 2)


def test_all_ranks_of_a_large_job_do_units_of_it_and_write_the_same_bytes(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(5000), units={"score": 200, "generate": 200, "merge": 900})
    ranks = Ranks(job)
    alone = _run_alone(ranks)
    for size in (2, 3):
        output = ranks.new_output()
        world = ranks.run(size)
        assert all(rank.units for rank in world.ranks)
        assert len(set(ranks.units)) == len(ranks.units)
        assert hashes(output) == hashes(alone)


def test_calibrated_escalated_deferred_and_audited_rows_are_the_same(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(400), units={"score": 64, "generate": 20, "merge": 64})
    job.use_every_stage()
    job.settings["policy"]["small_share"] = "20%"
    reports = [json.loads((output / "report" / REPORT).read_text()) for output in worlds(job).values()]
    assert reports[0]["audit"]["measured"] > 40
    assert all(report["audit"] == reports[0]["audit"] for report in reports)


def test_a_real_model_answers_the_same(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(40), units={"score": 8, "generate": 5, "merge": 16})
    for seed, side in enumerate(("small", "large")):
        model = tiny_decoder(tmp_path / side, chat=True, seed=seed)
        settings: dict[str, Any] = {"backend": "transformers", "model": str(model)}
        job.settings["models"][side] |= {**settings, "generation": {"max_new_tokens": 8}}
    worlds(job)
    assert job.answers()["response"].n_unique() > 20


@pytest.mark.parametrize("size", SIZES)
def test_a_limit_is_of_all_ranks_together(tmp_path: Path, size: int) -> None:
    job = JobFolder(tmp_path, table(400), units={"score": 64, "generate": 5, "merge": 64})
    job.settings["router"]["price"] = {"gpu_hour": 0}
    ranks = Ranks(job)
    calm = _run_alone(ranks)
    micro = _spent(receipts(calm)) // 3 // 10**6
    output = ranks.new_output()
    world = ranks.start(size, "--set", f"max_cost={micro / 10**6:.6f}")
    assert world.join() == [EXIT_STOPPED] * size, world.said()
    assert world.said().count("error: max_cost") == 1
    assert micro / 2 < _spent(receipts(output)) / 10**6 <= micro
    ranks.run(size)
    assert hashes(output) == hashes(calm)
    assert len(set(ranks.units)) == len(ranks.units)


def _join_and_leave(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with joined(World.from_environment()) as ranks:
        ranks.barrier()
        assert ranks.broadcast(lambda: 7) == 7
        ranks.exit_code = 4 if ranks.is_rank_zero else 0
    os._exit(ranks.exit_code)


def test_thirty_of_thirty_worlds_end_with_the_exit_code_of_rank_zero() -> None:
    for _ in range(30):
        port = str(free_port())
        processes = [forking.in_process(_join_and_leave, environment_of(rank, 2, port)) for rank in range(2)]
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [4, 4]


def _run_alone(ranks: Ranks) -> Path:
    output = ranks.new_output()
    ranks.run(1)
    return output


def _spent(receipts: dict[str, bytes]) -> int:
    """Pico-dollars for answers."""
    return sum(json.loads(receipt)["counts"].get("cost_pico", 0) for receipt in receipts.values())
