"""A gate at which all processes of a run wait before they commit a unit, so that a test can end some of them there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Gate:
    """To be called in each process; the folder must be seen by all, and may have another path in each.

    Attributes:
        folder: an empty one.
    """

    folder: Path

    def let_through(self, units: int) -> None:
        """So many units in all, and no more."""
        written = self.folder / "limit.new"
        written.write_text(str(units))
        written.rename(self.folder / "limit")

    @property
    def passed(self) -> int:
        count = self.folder / "passed"
        return count.stat().st_size if count.exists() else 0

    @property
    def is_shut(self) -> bool:
        """Whether as many units have passed as may."""
        return self.passed >= int((self.folder / "limit").read_text())

    def __call__(self) -> None:
        from batchroute.storage.units import Stage

        commit = Stage.commit

        def waiting(stage: Stage, *arguments: Any) -> Any:
            while self.is_shut:
                time.sleep(_POLL_SECONDS)
            with (self.folder / "passed").open("ab") as passed:
                passed.write(b".")
            return commit(stage, *arguments)

        Stage.commit = waiting  # type: ignore[assignment, method-assign]
