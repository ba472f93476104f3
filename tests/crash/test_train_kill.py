"""A training that is terminated and killed between its epochs ends with the weights of one that was left in peace."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from batchroute.errors import EXIT_TERMINATED
from batchroute.router.training.learner import Progress
from batchroute.router.training.options import TrainOptions
from batchroute.router.training.train import train
from tests.crash import forking
from tests.crash.ranks import environment_of, free_port
from tests.router.training.test_processes import command
from tests.router.training.trainings import options, weights, write_table
from tests.support.command import Command, run
from tests.support.tiny_models import tiny_router
from tests.support.waiting import wait_for


@pytest.mark.crash
def test_a_terminated_and_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    tiny_router(tmp_path / "base", head=False, initializer_range=0.2, hidden_dropout_prob=0.3)
    wanted = options(tmp_path, write_table(tmp_path, rows=200), epochs=5, patience=5, batch_size=4)
    code, log = stopped(wanted, signal.SIGTERM)
    assert code == EXIT_TERMINATED
    assert "run the same command again" in log
    code, log = stopped(wanted, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert "going on after epoch" in log
    assert not wanted.output.exists()
    done = run(*command(wanted)[2:])
    assert done.code == 0, done.err
    assert "going on after epoch" in done.err
    calm = train(wanted.model_copy(update={"output": tmp_path / "calm"}))
    one, two = weights(calm.output), weights(wanted.output)
    assert all(torch.equal(one[name], two[name]) for name in one)


def stopped(wanted: TrainOptions, how: signal.Signals) -> tuple[int, str]:
    """Start the training, and stop it soon after its next whole epoch."""
    state = Path(f"{wanted.output}.work") / "state.pt"
    before = state.stat().st_mtime_ns if state.exists() else 0
    attempt = Command(*command(wanted)[2:])
    wait_for(lambda: attempt.code is not None or (state.exists() and state.stat().st_mtime_ns != before))
    if how == signal.SIGKILL:
        attempt.kill()
    else:
        attempt.terminate()
    ended = attempt.end()
    return ended.code, ended.err


def _stop(progress: Progress) -> None:
    if progress.epoch == 2:
        raise KeyboardInterrupt


def _train(wanted: TrainOptions, folder: Path, environment: dict[str, str], stop: bool) -> None:
    """In a process that is a rank on a machine of its own: each has the output in another directory."""
    os.environ.update(environment)
    os.chdir(folder)
    os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    torch.set_num_threads(1)
    train(wanted, _stop if stop else None)


def _train_on_two(wanted: TrainOptions, folders: list[Path], stop: bool) -> int | None:
    """The exit code of rank 0. The other one may wait for it for ever."""
    port = str(free_port())
    ranks = [
        forking.in_process(_train, wanted, folder, environment_of(rank, 2, port), stop)
        for rank, folder in enumerate(folders)
    ]
    ranks[0].join(120)
    ranks[1].kill()
    ranks[1].join()
    return ranks[0].exitcode


@pytest.mark.crash
def test_processes_that_find_different_states_do_not_go_on(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    wanted = options(tmp_path, write_table(tmp_path, rows=60), epochs=3).model_copy(update={"output": Path("router")})
    assert _train_on_two(wanted, folders, stop=True) == 1
    assert "KeyboardInterrupt" in (folders[0] / "said").read_text()
    assert [(folder / "router.work" / "state.pt").exists() for folder in folders] == [True, False]
    assert _train_on_two(wanted, folders, stop=False) == 1
    assert "InputError: the processes see different files in" in (folders[0] / "said").read_text()
