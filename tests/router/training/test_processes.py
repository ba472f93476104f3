"""Training by several processes, as a launcher starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from batchroute.router.training.options import TrainOptions
from batchroute.router.training.train import train
from tests.router.training.trainings import options, weights, write_table
from tests.support.tiny_models import tiny_router

_QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    """Run two processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *launcher, *words], env=environment, capture_output=True, text=True, timeout=300
    )


def command(asked: TrainOptions) -> list[str]:
    """The command with these options."""
    words = ["--module", "batchroute", "train"]
    not_valued = {"weight_decay", "warmup", "overwrite", "allow_pickle", "add"}
    for name, value in asked.model_dump(mode="json", exclude=not_valued).items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """41 rows a batch of 8: the last batch has one row, and so none for the second process."""
    tiny_router(tmp_path / "base", head=False, initializer_range=0.2, **_QUIET)
    table = write_table(tmp_path, rows=60, split=["train"] * 41 + ["validation"] * 19)
    asked = options(tmp_path, table, epochs=2, batch_size=8, lr=1e-3)
    alone = train(asked.model_copy(update={"output": tmp_path / "alone"}))
    done = launch(*command(asked))
    assert done.returncode == 0, done.stderr
    one, two = weights(alone.output), weights(asked.output)
    for name in one:
        # A bias of all keys changes no attention: its gradient is rounding alone, which Adam makes steps of.
        assert torch.allclose(one[name], two[name], atol=1e-5) or name.endswith("key.bias"), name
    assert json.loads((asked.output / "router.json").read_text())["validation"]["epoch"] == alone.best_epoch
    # The first process speaks for both.
    for line in (*alone.verdict.sentences(), "epoch 1/2: ", "epoch 2/2: ", "training a router for 'gap'"):
        assert done.stderr.count(line) == 1, line
    assert done.stdout.count("router in ") == 1
