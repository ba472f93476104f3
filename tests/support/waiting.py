"""Waiting for an event. It imports nothing: workers of a cluster use it too."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(done: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until `done()` is true. `seconds` is a limit for a test that hangs, not a promise."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)
