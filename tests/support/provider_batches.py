"""Small jobs whose large model answers in provider batches, and what must hold of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tests.support.jobs import JobFolder, table
from tests.support.openai_server import OpenAIServer, ServerProcess
from tests.support.vendor_server import VendorProcess, VendorServer

ROWS = 30
KEYS = {"anthropic": "ANTHROPIC_API_KEY", "gemini": "GEMINI_API_KEY", "mistral": "MISTRAL_API_KEY"}
"""The environment variables of the vendors' keys."""


def batch_model(server: OpenAIServer | ServerProcess, name: str = "large", **settings: Any) -> dict[str, Any]:
    """Behind the backend `batch` where the server is a vendor's, else `openai_batch`."""
    vendor = server.name if isinstance(server, VendorServer | VendorProcess) else None
    backend = {"backend": "openai_batch"} if vendor is None else {"backend": "batch", "provider": vendor}
    return {
        **backend, "model": name, "endpoint": server.url, "poll_seconds": 0.02, "timeout": 2,
        "price": {"input": 1, "output": 2, "batch_discount": "50%"}, **settings,
    }  # fmt: skip


def batch_job(
    folder: Path, server: OpenAIServer | ServerProcess, rows: int = ROWS, share: str = "0%", **settings: Any
) -> JobFolder:
    """All rows go to the large model unless `share` says otherwise. `settings` are the large model's."""
    small = {"backend": "echo", "model": "echo-small", "price": {"input": 0.05, "output": 0.1}}
    models = {"small": small, "large": batch_model(server, **settings)}
    router = {"model": str(folder / "router"), "price": {"gpu_hour": 0}}
    units = {"score": 64, "generate": 8, "merge": 64}
    return JobFolder(
        folder, table(rows), models=models, policy={"small_share": share}, router=router, units=units, max_failed="100%"
    )


def check(job: JobFolder, failed: int = 0) -> pl.DataFrame:
    """Every row is there once, in its place, and the large model's good answers are those to their own prompts."""
    frame, asked = job.answers(), pl.read_parquet(job.input)
    assert frame["id"].to_list() == asked["id"].to_list()
    good = frame.filter(pl.col("status") == "ok")
    assert frame.height - good.height == failed
    for row in good.filter(pl.col("model") == "large").iter_rows(named=True):
        assert row["response"] == f"echo: {row['prompt']}"
    return frame


def once(server: OpenAIServer | ServerProcess, rows: int = ROWS) -> bool:
    """Whether every row was submitted, and once."""
    submitted = server.submitted() if isinstance(server, ServerProcess) else server.submitted
    return len(submitted) == rows and set(submitted.values()) == {1}


def again(server: OpenAIServer) -> set[str]:
    """The prompts that were submitted more than once."""
    return {prompt for prompt, count in server.submitted.items() if count > 1}
