"""Reports without drawn pictures: matplotlib takes longer than all else in a small job."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from batchroute.reports.page import plots


@contextmanager
def undrawn_pictures() -> Iterator[None]:
    """Pictures of the page are neither built nor drawn. tests/reports draws them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "canvas", _blank)
        patch.setattr(plots, "svg", _undrawn)
        yield


def draw_nothing() -> None:
    """For the rest of this process."""
    plots.canvas, plots.svg = _blank, _undrawn  # type: ignore[assignment]


def _undrawn(*_: object) -> str:
    return "<svg></svg>"


@contextmanager
def _blank(_: int) -> Iterator[tuple[None, _Axes]]:
    yield None, _Axes()


class _Axes:
    """Refuses the numbers that matplotlib's axes refuse, and takes everything else."""

    def __getattr__(self, _: str) -> _Axes:
        return self

    def __call__(self, *_: object, **__: object) -> _Axes:
        return self

    def plot(self, x: Any, y: Any, *_: object, **__: object) -> None:
        np.broadcast_shapes(_numbers(x).shape, _numbers(y).shape)

    def fill_between(self, x: Any, low: Any, high: Any, **_: object) -> None:
        assert _numbers(x).shape == _numbers(low).shape == _numbers(high).shape

    def bar(self, x: Any, height: Any, width: Any, **_: object) -> None:
        assert _numbers(x).shape == _numbers(height).shape == _numbers(width).shape

    def set_xlim(self, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("Axis limits cannot be NaN or Inf")

    set_ylim = set_xlim


def _numbers(values: Any) -> np.ndarray[Any, Any]:
    return np.asarray(values, dtype=float)
