"""Quicker imports: without packages that a command has no use for, and without garbage collection."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any


@contextmanager
def uncollected() -> Iterator[None]:
    """Around imports: the collector would look for garbage among all the functions and classes that they make, and
    they stay. That takes a twentieth of the time until the first unit.

    Later collections leave out what is there by then. Price: so they do its garbage, if there is any.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


class _Hidden(MetaPathFinder):
    """A package that is not found, although it is installed."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == self._package:
            raise ModuleNotFoundError(f"No module named '{fullname}'", name=fullname)


def without_pandas() -> None:
    """Keep pyarrow from importing pandas, where that is installed, to see whether a list is one of its objects: 0.3 s.

    pyarrow tries once and remembers. What calls `to_pandas` still gets it.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    hidden = _Hidden("pandas")
    sys.meta_path.insert(0, hidden)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(hidden)
