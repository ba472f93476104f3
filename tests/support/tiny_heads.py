"""A router of heads that nothing was fitted to: a tiny encoder and random heads, made in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from batchroute.router.heads.cheap import NAMES as CHEAP
from batchroute.router.heads.ensemble import Ensemble
from batchroute.router.heads.features import Projection, Scale
from batchroute.router.heads.members import Kernels, Members, Trees
from batchroute.router.heads.ngrams import BUCKETS
from batchroute.router.notes import ROUTER_FILE
from tests.support.tiny_models import tiny_router

_STATES, _GRAMS, _TEXT, _CENTRES, _TASKS, _TREES = 64, 2_000, 8, 20, 3, 5


def tiny_reader(folder: Path, small_model: str = "echo-small") -> Path:
    """As `tiny_heads`, of a reader of answers that learned from those of this model."""
    notes = {"reads": "answer", "max_length": 64, "models": {"small": small_model}}
    (tiny_heads(folder) / ROUTER_FILE).write_text(json.dumps(notes))
    return folder


def tiny_heads(folder: Path) -> Path:
    """Heads of kernels, tasks and stumps, whose scores and spreads differ from prompt to prompt."""
    tiny_router(folder, head=False, initializer_range=0.2)
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(0, 0.3, shape).astype(np.float32))

    width = _STATES + _TEXT + len(CHEAP)
    numbers = np.sort(rng.choice(BUCKETS, _GRAMS, replace=False)).astype(np.int32)
    # Node 0 asks for a feature; nodes 1 and 2 are leaves.
    ends = torch.tensor([[1, 1, 2], [2, 1, 2]], dtype=torch.int32)
    trees = Trees(
        feature=torch.arange(_TREES, dtype=torch.int32)[:, None].repeat(1, 3),
        threshold=torch.zeros(_TREES, 3),
        left=ends[0].repeat(_TREES, 1),
        right=ends[1].repeat(_TREES, 1),
        value=normal(_TREES, 3),
        depth=1,
    )
    kernels = Kernels(normal(_CENTRES, width), normal(_CENTRES, 1 + _TASKS), torch.full((1 + _TASKS,), 0.3), 0.3)
    Ensemble(
        Projection(numbers, np.ones(_GRAMS, np.float32), normal(_GRAMS, _TEXT)),
        Scale(torch.zeros(width), torch.full((width,), 0.2)),
        Members(kernels, torch.tensor([0.2, 0.5, 0.9]), trees),
        torch.eye(width)[:, :_TREES].contiguous(),
        lowered=0.5,
        knots=torch.tensor([-3.0, 3.0]),
        levels=torch.tensor([0.0, 1.0]),
    ).save(folder)
    return folder
