"""Checkpoints of a training: its state after each epoch, and the best weights so far."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from batchroute.errors import InputError, first_line

_STATE = "state.pt"


class Checkpoints:
    """The folder `<output>.work/`, which is removed when the router is published.

    Attributes:
        fingerprint: of everything that the weights depend on; `load` ignores the state of another training.
        earlier: what earlier versions took for the fingerprint.
    """

    def __init__(self, output: Path, fingerprint: str, earlier: Sequence[str] = ()) -> None:
        self.output = output.absolute()
        self.folder = self.output.with_name(self.output.name + ".work")
        self.fingerprint, self.known = fingerprint, {fingerprint, *earlier}

    def prepare(self) -> str | None:
        """Make the folder, without files of another training. Only one process may call it.

        Returns:
            A sentence if there was the state of another training, which is removed.

        Raises:
            InputError: the folder cannot be written.
        """
        with self.writing():
            other = False
            if self.folder.is_dir() and self.load() is None:
                other = (self.folder / _STATE).is_file()
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        if not other:
            return None
        return (
            f"the state of an interrupted training in '{self.folder}' is damaged, or of other settings, rows or "
            "packages: it is removed, and this training begins anew"
        )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn the errors of a full disk or a missing permission within the block into one sentence.

        Raises:
            InputError: the folder cannot be written.
        """
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            # torch and safetensors raise their own errors for a full disk.
            raise InputError(f"cannot write to '{self.folder}': {first_line(error)}") from error

    def load(self) -> dict[str, Any] | None:
        """The state of this training after its last whole epoch, on the CPU; None if there is no usable one."""
        file = self.folder / _STATE
        if not file.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (EOFError, RuntimeError, pickle.UnpicklingError):
            # The machine stopped while it wrote. Repeating an epoch is better than asking the user to remove a file.
            return None
        whole = state.get("fingerprint") in self.known and self.epoch(state["best_epoch"]).is_dir()
        return state if whole else None

    def epoch(self, number: int) -> Path:
        """The folder for the weights of this epoch, if they are the best so far."""
        return self.folder / f"epoch-{number}"

    def save(self, state: dict[str, Any], best_epoch: int) -> None:
        """Replace the state atomically, then remove the weights of all epochs but the best."""
        fresh = self.folder / f"{_STATE}.new"
        with self.writing():
            torch.save({**state, "fingerprint": self.fingerprint, "best_epoch": best_epoch}, fresh)
            os.replace(fresh, self.folder / _STATE)
        for old in self.folder.glob("epoch-*"):
            if old != self.epoch(best_epoch):
                shutil.rmtree(old)

    def publish(self, best_epoch: int) -> None:
        """Move the best epoch's folder to the output, replacing what is there, then remove the work folder."""
        with self.writing():
            if self.output.exists():
                self.output.rename(self.folder / "replaced")
            self.epoch(best_epoch).rename(self.output)
            shutil.rmtree(self.folder)
