"""A quality table that a tiny encoder can learn in seconds, and the options to train on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from batchroute.router.model import Router
from batchroute.router.training.options import TrainOptions
from tests.support.tiny_models import tiny_router

CPU = torch.device("cpu")
EASY, HARD = "apple fox dog", "river glass 12 30"


def write_table(folder: Path, rows: int = 200, noise: float = 0.2, **columns: Any) -> str:
    """Prompts that hold easy words, where both models do as well, or hard words, where the small one loses 1."""
    rng = np.random.default_rng(0)
    easy = rng.random(rows) < 0.5
    prompts = [f"{rng.choice((EASY if e else HARD).split())} number {row}" for row, e in enumerate(easy)]
    small = [(float(not e) * -1.0 + rng.normal(0, noise, 3)).tolist() for e in easy]
    large = rng.normal(0, noise, (rows, 2)).tolist()
    # As BART scores are: negative.
    qualities = {
        "small_quality": [[q - 3 for q in row] for row in small],
        "large_quality": [[q - 3 for q in row] for row in large],
    }
    table = pa.table({"prompt": prompts, **qualities, **columns})
    metadata = {"small_model": "small", "large_model": "large", "metric": "bartscore"}
    path = folder / "table.parquet"
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return str(path)


def options(folder: Path, table: str, **more: Any) -> TrainOptions:
    base = folder / "base"
    if not base.exists():
        # So small a model learns nothing in a few steps from the usual 0.02.
        tiny_router(base, head=False, initializer_range=0.2)
    fast = {"epochs": 4, "lr": 3e-3, "batch_size": 16, "max_length": 32, "validation": 0.2, "test": 0.0}
    paths = {"quality_table": table, "base": str(base), "output": folder / "out" / "router", "method": "finetune"}
    return TrainOptions(**paths | fast | more)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Router.load(str(folder), CPU).model.state_dict()
