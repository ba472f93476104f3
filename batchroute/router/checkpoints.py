"""What an interrupted training goes on from: its state after each epoch, and the best weights so far."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from batchroute import models
from batchroute.errors import InputError

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
        try:
            if self.folder.is_dir() and self.load("cpu") is None:
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to '{self.folder}': {models.first_line(error)}") from error

    def load(self, device: torch.device | str) -> dict[str, Any] | None:
        """The state of this training after its last whole epoch; None before the first."""
        file = self.folder / _STATE
        if not file.is_file():
            return None
        state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        return state if state["fingerprint"] == self.fingerprint else None

    def epoch(self, number: int) -> Path:
        """Where the weights of this epoch go, when they are the best so far."""
        return self.folder / f"epoch-{number}"

    def save(self, state: dict[str, Any], best_epoch: int) -> None:
        """Put the state, whole; the weights of epochs that are not the best are no longer needed then."""
        fresh = self.folder / f"{_STATE}.new"
        torch.save({**state, "fingerprint": self.fingerprint}, fresh)
        os.replace(fresh, self.folder / _STATE)
        for old in self.folder.glob("epoch-*"):
            if old != self.epoch(best_epoch):
                shutil.rmtree(old)

    def publish(self, best_epoch: int) -> None:
        """Put the best epoch's folder where the router belongs, in the place of what is there; then clean up."""
        old = self.folder / "replaced"
        if self.output.exists():
            self.output.rename(old)
        self.epoch(best_epoch).rename(self.output)
        shutil.rmtree(self.folder)
