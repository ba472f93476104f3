"""The files in a router's folder beside its weights: how it was trained, its calibration, its reference."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from batchroute import models
from batchroute.errors import InputError
from batchroute.fields import SIDES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from batchroute.tables.quality_table import QualityTable

ROUTER_FILE = "router.json"
"""Written by `train`: label, max_length, table, figures on validation rows."""

CONFIDENCE_FILE = "confidence.json"
"""Written by `calibrate` into the router's folder, or into a folder of its own."""

CALIBRATION_FILE = "calibration.json"
"""Written by `calibrate`: thresholds with their cost advantage and drop."""

REFERENCE_FILE = "reference.json"
"""Written by `calibrate`: what its rows looked like, to detect drift."""

Noted = TypeVar("Noted", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Notes:
    """How a router was trained.

    Attributes:
        label: what it was trained to predict.
        models: names of the pair, by side; None where the quality table did not name them.
        metric: of the quality table; None if the table did not name it.
        trained, validated: digests of the training prompts, and of the prompts that chose the epoch.
    """

    label: str | None
    models: dict[str, str | None]
    metric: str | None
    trained: frozenset[str]
    validated: frozenset[str]

    @classmethod
    def read(cls, router: str) -> Self:
        """The notes of a router by its name; empty for a router that `train` did not make.

        Raises:
            InputError: `router.json` is damaged, or there is no such router.
        """
        values = read_json(Path(models.resolve(router)) / ROUTER_FILE) or {}
        pair = values.get("models") or {}
        return cls(
            label=values.get("label"),
            models={side: pair.get(side) for side in SIDES},
            metric=values.get("metric"),
            trained=frozenset(str(values.get("train_prompts", "")).split()),
            validated=frozenset(str(values.get("validation_prompts", "")).split()),
        )

    def check_pair(self, table: QualityTable, router: str) -> None:
        """Raises:
        InputError: the table was measured on another pair of models than the router was trained for.
        """
        for side, model in self.models.items():
            other = table.metadata.get(f"{side}_model")
            if model is not None and other is not None and model != other:
                raise InputError(
                    f"the quality table '{table.path}' is of another pair of models than the router '{router}': its "
                    f"{side} model is {other}, the router's {model}; label prompts with the router's pair"
                )

    def held_out(self, table: QualityTable) -> QualityTable:
        """The rows whose prompts the router never saw, in their order; possibly none."""
        return table.take(self.unseen(table))

    def unseen(self, table: QualityTable) -> NDArray[np.intp]:
        """The numbers of these rows, from 0."""
        seen = self.trained | self.validated
        rows = [row for row, prompt in enumerate(table.prompts) if prompt_digest(prompt) not in seen]
        import numpy as np

        return np.array(rows, dtype=np.intp)


def prompt_digest(prompt: str) -> str:
    """12 hexadecimal digits that identify a prompt without showing it; surrounding white space does not count."""
    return hashlib.sha256(prompt.strip().encode()).hexdigest()[:12]


def read_noted(router: str, name: str, kind: type[Noted]) -> Noted | None:
    """Read a file that `calibrate` wrote into the router's folder; None if it does not exist.

    Raises:
        InputError: the file is damaged.
    """
    file = Path(models.resolve(router)) / name
    values = read_json(file)
    if values is None:
        return None
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(f"'{file}' is damaged at {place}: calibrate the router again") from error


def read_json(file: Path) -> dict[str, Any] | None:
    """None if the file does not exist.

    Raises:
        InputError: the file holds no JSON object.
    """
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"'{file}' is damaged: it should be JSON") from error
    if not isinstance(values, dict):
        raise InputError(f"'{file}' is damaged: it should be a JSON object")
    return values


def put(file: Path, text: str) -> None:
    """Write or replace a file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        fresh.write_bytes(text.encode() + b"\n")
        fresh.replace(file)
    except OSError as error:
        raise InputError(f"cannot write '{file}': {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)
