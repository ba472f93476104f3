"""Reports without drawn pictures: matplotlib takes longer than all else in a small job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from batchroute.reports.page import plots


@contextmanager
def undrawn_pictures() -> Iterator[None]:
    """Pictures of the page are built, with their labels and ticks, but not drawn. tests/reports draws them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "svg", undrawn)
        yield


def undrawn(*_: object) -> str:
    return "<svg></svg>"
