"""How a rank ends the run early: its exit code, and the message that the other ranks receive."""

from __future__ import annotations

from dataclasses import dataclass

from batchroute import crash
from batchroute.engines.ranks.world import DIED, World
from batchroute.errors import (
    EXIT_CRASHED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    BatchrouteError,
    DiedError,
    Terminated,
    error_of,
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a rank ended the run early, for all ranks.

    Attributes:
        died: whether the rank's connection closed without a message.
    """

    rank: int
    exit_code: int
    message: str
    died: bool = False

    def error(self) -> BaseException:
        """The error that the other ranks raise."""
        if self.died:
            return DiedError(f"{self.message}; run again to go on")
        return error_of(self.exit_code, self.message)


def exit_code(error: BaseException, world: World) -> int:
    """The exit code of a rank; `DIED` if another rank died and batchroute's launcher may start all ranks again."""
    if isinstance(error, DiedError) and world.launcher == "batchroute":
        return DIED
    if isinstance(error, BatchrouteError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_CRASHED


def message_of(world: World, error: BaseException) -> str:
    if isinstance(error, BatchrouteError):
        return str(error)
    if isinstance(error, Terminated | KeyboardInterrupt):
        return f"rank {world.rank} of {world.size} was terminated"
    return f"rank {world.rank} of {world.size}: {crash.sentence(error, 'in its log')}"
