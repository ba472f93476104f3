"""What an interrupted training goes on from: its state after each epoch, and the best weights so far."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from batchroute.errors import InputError, first_line

_STATE = "state.pt"


class Checkpoints:
    """`<output>.work/`, beside the router to be, until that is there.

    Attributes:
        fingerprint: of all that the weights depend on; the state of another training is not taken up.
    """

    def __init__(self, output: Path, fingerprint: str) -> None:
        self.output = output.absolute()
        self.folder = self.output.with_name(self.output.name + ".work")
        self.fingerprint = fingerprint

    def prepare(self) -> None:
        """Make the folder, and clear it of another training's files; one process does it.

        Raises:
            InputError: it cannot be written.
        """
        with self.writing():
            if self.folder.is_dir() and self.load() is None:
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Within, a full disk or a missing permission is told in a sentence.

        Raises:
            InputError: it cannot be written.
        """
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            # torch and safetensors have errors of their own for a full disk.
            raise InputError(f"cannot write to '{self.folder}': {first_line(error)}") from error

    def load(self) -> dict[str, Any] | None:
        """The state of this training after its last whole epoch, on the CPU; None when there is none of use."""
        file = self.folder / _STATE
        if not file.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (EOFError, RuntimeError, pickle.UnpicklingError):
            # Cut off by a machine that stopped. An epoch repeated is better than a file to remove by hand.
            return None
        whole = state.get("fingerprint") == self.fingerprint and self.epoch(state["best_epoch"]).is_dir()
        return state if whole else None

    def epoch(self, number: int) -> Path:
        """Where the weights of this epoch go, when they are the best so far."""
        return self.folder / f"epoch-{number}"

    def save(self, state: dict[str, Any], best_epoch: int) -> None:
        """Put the state, whole; the weights of epochs that are not the best are no longer needed then."""
        fresh = self.folder / f"{_STATE}.new"
        with self.writing():
            torch.save({**state, "fingerprint": self.fingerprint, "best_epoch": best_epoch}, fresh)
            os.replace(fresh, self.folder / _STATE)
        for old in self.folder.glob("epoch-*"):
            if old != self.epoch(best_epoch):
                shutil.rmtree(old)

    def publish(self, best_epoch: int) -> None:
        """Put the best epoch's folder where the router belongs, in the place of what is there; then clean up."""
        with self.writing():
            if self.output.exists():
                self.output.rename(self.folder / "replaced")
            self.epoch(best_epoch).rename(self.output)
            shutil.rmtree(self.folder)
