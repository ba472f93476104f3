"""A whole job on real models: SmolLM2 here as the small one, and behind `transformers serve` as the large one."""

from __future__ import annotations

import threading
import time
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from batchroute import models
from batchroute.errors import EXIT_OK
from tests.support.jobs import JobFolder
from tests.support.transformers_server import TransformersServer

pytestmark = pytest.mark.models

SMOLLM2 = models.embedded_dir("smollm2-135m-instruct")
QUESTIONS = [f"What is {i} + {i + 2}? Answer with one number." for i in range(24)]


def job(tmp_path: Path, url: str) -> JobFolder:
    frame = pl.DataFrame({"id": [f"row-{i}" for i in range(24)], "prompt": QUESTIONS, "team": ["a"] * 24})
    small = {
        "backend": "transformers",
        "model": str(SMOLLM2),
        "generation": {"max_new_tokens": 4},
        "price": {"input": "0.05", "output": "0.1"},
        "on_failure": "large",
    }
    large = {
        "backend": "openai",
        "model": str(SMOLLM2),
        "endpoint": url,
        "generation": {"max_new_tokens": 8},
        "concurrency": 4,
        "price": {"input": "0.5", "output": "1.5"},
    }
    units = {"score": 24, "generate": 4, "merge": 24}
    return JobFolder(tmp_path, frame, models={"small": small, "large": large}, units=units, policy={"small_share": 0.5})


def test_a_job_with_a_local_small_model_and_a_served_large_one_goes_end_to_end(tmp_path: Path) -> None:
    with TransformersServer(SMOLLM2) as server:
        folder = job(tmp_path, server.url)
        killed = threading.Thread(target=_kill_and_restart_in_the_middle, args=(server, tmp_path))
        killed.start()
        outcome = folder.run()
        killed.join()
    rows = folder.answers()
    assert outcome.exit_code == EXIT_OK
    assert rows["prompt"].to_list() == QUESTIONS
    assert set(rows["status"]) == {"ok"}
    # The small model may write four tokens, and says more than that: those rows go on to the large one.
    assert outcome.report.rows["escalated"] > 0
    assert (rows["input_tokens"] > 0).all()
    assert (rows["output_tokens"] > 0).all()
    assert rows.filter(route="large").height == 12
    assert rows.filter(route="small→large").height == outcome.report.rows["escalated"]
    assert rows["cost"].sum() + (outcome.report.router.cost or Decimal(0)) == outcome.report.total_cost


def _kill_and_restart_in_the_middle(server: TransformersServer, tmp_path: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out.work/*/large/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    server.restart()
