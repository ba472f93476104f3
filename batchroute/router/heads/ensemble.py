"""The heads of a router together: the mean of their predictions, made a score in [0, 1], and how far they disagree.

The encoder rounds differently in another batch. That can send a prompt another way in one tree of some hundred, which
moves its score by some ten thousandths; a run's batches are fixed, so its scores are the same whoever computes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from batchroute.errors import InputError, first_line
from batchroute.models import HEADS_FILE
from batchroute.router.heads.cheap import NAMES as CHEAP
from batchroute.router.heads.features import Projection, Scale, TextParts
from batchroute.router.heads.members import Kernels, Members, Trees, combined

_VERSION = "2"
_ROWS_AT_ONCE = 2_048


@dataclass(slots=True)
class Ensemble:
    """Everything that turns pooled states and texts into scores.

    Attributes:
        rotation: float32 [width, inputs]: makes the trees' inputs from features, since a tree asks for one input at a
            time.
        lowered: the score is lowered by so many times the spread.
        knots, levels: float32 [knots], rising: the calibration, linear between its knots.
    """

    projection: Projection
    scale: Scale
    heads: Members
    rotation: torch.Tensor
    lowered: float
    knots: torch.Tensor
    levels: torch.Tensor

    @property
    def width(self) -> int:
        """Of the pooled states: the mean over tokens, then the first token."""
        return len(self.scale.mean) - self.projection.directions.shape[1] - len(CHEAP)

    def to(self, device: torch.device) -> Ensemble:
        """A copy whose heads compute on `device`; the n-grams stay on the CPU, where texts are read."""
        scale = Scale(self.scale.mean.to(device), self.scale.factor.to(device))
        heads, rotation = self.heads.to(device), self.rotation.to(device)
        knots, levels = self.knots.to(device), self.levels.to(device)
        return Ensemble(self.projection, scale, heads, rotation, self.lowered, knots, levels)

    def members(self, states: torch.Tensor, parts: TextParts) -> torch.Tensor:
        """Each head's prediction of the label: float32 [rows, heads].

        Args:
            states: float32 [rows, 2 × hidden], on the device of the heads.
        """
        features = self.features(states, parts)
        blocks = (features[start : start + _ROWS_AT_ONCE] for start in range(0, len(features), _ROWS_AT_ONCE))
        return torch.cat([self.heads.predict(block, block @ self.rotation) for block in blocks])

    def features(self, states: torch.Tensor, parts: TextParts) -> torch.Tensor:
        texts, cheap = (torch.from_numpy(part).to(states.device) for part in (parts.text, parts.cheap))
        half = states.shape[1] // 2
        return self.scale.apply([states[:, :half], states[:, half:], texts, cheap])

    def score(self, states: torch.Tensor, parts: TextParts) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores and spreads: shape [rows]; NaN where the encoder gave no number.

        The spread is the standard deviation of the heads' predictions, in units of the label.
        """
        if len(states) == 0:
            return np.empty(0, np.float32), np.empty(0, np.float32)
        with torch.inference_mode():
            mean, spread = combined(self.members(states, parts))
            scores = interpolated(mean - self.lowered * spread, self.knots, self.levels)
            lost = ~torch.isfinite(states).all(dim=1)
            scores[lost], spread[lost] = torch.nan, torch.nan
            return scores.cpu().numpy(), spread.cpu().numpy()

    def save(self, folder: Path) -> None:
        arrays = {f"{name}": value.contiguous() for name, value in self._arrays()}
        settings = {
            "version": _VERSION,
            "gamma": self.heads.kernels.gamma,
            "lowered": self.lowered,
            "depth": self.heads.trees.depth,
        }
        save_file(arrays, folder / HEADS_FILE, metadata={"heads": json.dumps(settings)})

    def _arrays(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield "grams", torch.from_numpy(self.projection.numbers)
        yield "idf", torch.from_numpy(self.projection.idf)
        # Half the file; the last digits of a direction do not matter.
        yield "directions", self.projection.directions.half()
        yield "scale.mean", self.scale.mean
        yield "scale.factor", self.scale.factor
        yield "kernels.centres", self.heads.kernels.centres
        yield "kernels.coefficients", self.heads.kernels.coefficients
        yield "kernels.intercepts", self.heads.kernels.intercepts
        if self.heads.tasks is not None:
            yield "tasks", self.heads.tasks
        yield "rotation", self.rotation
        for name, value in self.heads.trees.arrays().items():
            yield f"trees.{name}", value
        yield "knots", self.knots
        yield "levels", self.levels


def read(folder: Path) -> Ensemble | None:
    """The heads in a router's folder; None if it is a plain classifier.

    Raises:
        InputError: the file is damaged, or of another version.
    """
    file = folder / HEADS_FILE
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            settings: dict[str, Any] = json.loads((opened.metadata() or {})["heads"])
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if settings["version"] != _VERSION:
            raise InputError(f"'{file}' was written by another version of batchroute: train the router again")
        trees = Trees(**{name: arrays[f"trees.{name}"] for name in Trees.names()}, depth=settings["depth"])
        kernels = {name: arrays[f"kernels.{name}"] for name in ("centres", "coefficients", "intercepts")}
        return Ensemble(
            Projection(arrays["grams"].numpy(), arrays["idf"].numpy(), arrays["directions"].float()),
            Scale(arrays["scale.mean"], arrays["scale.factor"]),
            Members(Kernels(**kernels, gamma=settings["gamma"]), arrays.get("tasks"), trees),
            arrays["rotation"],
            settings["lowered"],
            arrays["knots"],
            arrays["levels"],
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{file}' is damaged ({first_line(error)}): train the router again") from error


def interpolated(values: torch.Tensor, knots: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Linear between the knots, and level beyond the first and the last: shape [rows]."""
    inside = torch.minimum(torch.maximum(values, knots[0]), knots[-1])
    right = torch.searchsorted(knots, inside).clamp(1, len(knots) - 1)
    left = right - 1
    share = (inside - knots[left]) / (knots[right] - knots[left])
    return torch.lerp(levels[left], levels[right], share)
