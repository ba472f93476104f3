from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from batchroute.errors import InputError
from batchroute.router.model import Router
from batchroute.router.training.checkpoints import Checkpoints
from batchroute.router.training.learner import Progress
from batchroute.router.training.train import train
from tests.router.training.trainings import CPU, options, weights, write_table
from tests.support.tiny_models import tiny_router


class Interrupted(BaseException):
    pass


def interrupt(progress: Progress) -> None:
    if progress.epoch == 2 and progress.validation is None:
        raise Interrupted


def interrupt_later(progress: Progress, epoch: int) -> None:
    if progress.epoch == epoch and progress.validation is not None:
        raise Interrupted


def interrupt_after_an_epoch(progress: Progress) -> None:
    if progress.validation is not None:
        raise Interrupted


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """With dropout, whose random numbers must not depend on where the interruption fell."""
    tiny_router(tmp_path / "base", head=False, initializer_range=0.2, hidden_dropout_prob=0.3)
    table = write_table(tmp_path, rows=80)
    calm = train(options(tmp_path, table, epochs=3))
    asked = options(tmp_path, table, epochs=3, output=tmp_path / "resumed" / "router")
    with pytest.raises(Interrupted):
        train(asked, interrupt)
    assert not asked.output.exists()
    reports: list[Progress] = []
    resumed = train(asked, reports.append)
    assert reports[0].epoch == 2
    assert resumed.history == calm.history
    before, after = weights(calm.output), weights(resumed.output)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert list(asked.output.parent.iterdir()) == [asked.output]


def test_the_state_of_another_training_is_not_taken_up(tmp_path: Path) -> None:
    table = write_table(tmp_path, rows=80)
    with pytest.raises(Interrupted):
        train(options(tmp_path, table, epochs=3), interrupt)
    reports: list[Progress] = []
    notes: list[str] = []
    result = train(options(tmp_path, table, epochs=3, seed=5), reports.append, notes.append)
    assert reports[0].epoch == 1
    assert "is removed, and this training begins anew" in notes[-1]
    calm = train(options(tmp_path, table, epochs=3, seed=5, output=tmp_path / "calm"))
    assert result.history == calm.history


def test_an_interrupted_training_may_end_sooner_than_was_meant(tmp_path: Path) -> None:
    table = write_table(tmp_path, rows=80)
    with pytest.raises(Interrupted):
        train(options(tmp_path, table, epochs=9, patience=9), lambda one: interrupt_later(one, 3))
    reports: list[Progress] = []
    result = train(options(tmp_path, table, epochs=9, patience=1), reports.append)
    assert not reports or reports[0].epoch == 4
    assert len(result.history) < 9


def test_an_interrupted_training_leaves_the_old_router(tmp_path: Path) -> None:
    table = write_table(tmp_path, rows=80)
    asked = options(tmp_path, table, epochs=2)
    train(asked)
    before = {file.name: file.read_bytes() for file in asked.output.iterdir()}
    with pytest.raises(Interrupted):
        train(options(tmp_path, table, epochs=2, seed=5, overwrite=True), interrupt)
    assert {file.name: file.read_bytes() for file in asked.output.iterdir()} == before


def test_going_on_is_reported(tmp_path: Path) -> None:
    asked = options(tmp_path, write_table(tmp_path, rows=80), epochs=3)
    with pytest.raises(Interrupted):
        train(asked, interrupt)
    notes: list[str] = []
    train(asked, on_note=notes.append)
    assert notes[-1].startswith("going on after epoch 1,")


@pytest.mark.parametrize("kept", [0, 100])
def test_a_state_that_was_cut_off_is_not_taken_up(tmp_path: Path, kept: int) -> None:
    asked = options(tmp_path, write_table(tmp_path, rows=80), epochs=3)
    with pytest.raises(Interrupted):
        train(asked, interrupt)
    state = Path(f"{asked.output}.work") / "state.pt"
    state.write_bytes(state.read_bytes()[:kept])
    reports: list[Progress] = []
    train(asked, reports.append)
    assert reports[0].epoch == 1
    assert Router.load(str(asked.output), CPU)


def test_a_state_without_its_weights_is_not_taken_up(tmp_path: Path) -> None:
    """As a crash leaves it that falls between putting the router in its place and cleaning up."""
    asked = options(tmp_path, write_table(tmp_path, rows=80), epochs=1, overwrite=True)
    work = Path(f"{asked.output}.work")
    with pytest.raises(Interrupted):
        train(asked, interrupt_after_an_epoch)
    (work / "epoch-1").rename(asked.output)
    before = load_file(asked.output / "model.safetensors")
    train(asked)
    assert Router.load(str(asked.output), CPU)
    after = load_file(asked.output / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert list(asked.output.parent.iterdir()) == [asked.output]


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Within, no file gets larger than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1_000, 150_000])
def test_a_full_disk_is_reported(tmp_path: Path, size: int) -> None:
    """Too small for the weights, or for the state that is three times as large."""
    asked = options(tmp_path, write_table(tmp_path, rows=80), epochs=1)
    with disk_of(size), pytest.raises(InputError, match=r"cannot write to '.*router\.work'"):
        train(asked)
    assert train(asked).output.is_dir()


def test_another_trainings_files_are_cleared_away(tmp_path: Path) -> None:
    own, other = Checkpoints(tmp_path / "router", "own"), Checkpoints(tmp_path / "router", "other")
    other.prepare()
    other.epoch(1).mkdir()
    other.save({"number": 1}, 1)
    other.prepare()
    state = other.load()
    assert state is not None
    assert state["number"] == 1
    assert own.load() is None
    own.prepare()
    assert list(own.folder.iterdir()) == []
    assert other.load() is None
