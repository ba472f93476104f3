"""Every test runs without a hub, and on one thread: tiny models on busy cores are many times slower on two."""

from __future__ import annotations

import ast
import gc
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
# Of the processes that tests start too. torch reads it when it is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)
# As the command line has it: with Python's default, garbage collection takes a tenth of the time.
gc.set_threshold(50_000, 10, 10)

# A test file that imports one of these starts a server or a process, or loads a model, and is not in the quick lane.
_NOT_QUICK = (
    "batchroute.models.embedded",
    "http.server",
    "multiprocessing",
    "ray",
    "subprocess",
    "tests.crash",
    "tests.engines.ranks.launching",
    "tests.engines.ray",
    "tests.generators.openai.openai_generators",
    "tests.generators.transformers.tiny_generators",
    "tests.kubernetes.overlays",
    "tests.reports.page.browser",
    "tests.router.training.trainings",
    "tests.support",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="unit tests without servers, processes or models")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, unread, the files that are not in the quick lane."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if config.getoption("--quick") and is_test and not _is_quick(collection_path) else None


def pytest_collection_finish() -> None:
    """What is imported and collected by now is no garbage, and need not be looked at again."""
    gc.freeze()


def _is_quick(file: Path) -> bool:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
    return not any(f"{name}.".startswith(f"{module}.") for name in imported for module in _NOT_QUICK)
