"""What a vendor's API is to the server: who may ask what, and how requests and results are written."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from tests.support.openai_server.settings import Settings
from tests.support.openai_server.wire import ApiError, Reply, Request
from tests.support.vendor_server.store import Row, Store


@dataclass
class Answer:
    """What the model gives: a text and why it ended (`stop`, `length`, `refusal`), or an error's status and words."""

    text: str = ""
    reason: str = "stop"
    status: int = 200
    words: str = ""
    thought: str = ""
    read: int = 0
    written: int = 0
    cached: int = 0


class Vendor(ABC):
    """
    Attributes:
        prefix: of the paths, as the client's base URL has it.
    """

    prefix: ClassVar[str]

    def __init__(self, settings: Settings, store: Store, folder: Path) -> None:
        """Args:
        folder: where its files are.
        """
        self.settings, self.store = settings, store

    @abstractmethod
    def authorize(self, request: Request) -> None:
        """Raises:
        ApiError: the key, or a header that must be there, is not right.
        """

    @abstractmethod
    def chat(self, request: Request, path: list[str]) -> Row | None:
        """The row of a request for a single answer, checked; None: it is another request."""

    @abstractmethod
    def completion(self, row: Row, answer: Answer) -> dict[str, Any]:
        """The body of an answer."""

    @abstractmethod
    def check(self, row: Row) -> None:
        """Raises:
        ApiError: its body is not right.
        """

    @abstractmethod
    def limits(self, body: dict[str, Any]) -> tuple[int | None, list[str]]:
        """The most words of an answer, and the strings that end it."""

    @abstractmethod
    def operation(self, request: Request, path: list[str]) -> tuple[str, Callable[[], Reply]] | None:
        """What a request of the batch API does: its name of `openai_server.faults.OPERATIONS`, and the deed."""

    @abstractmethod
    def error(self, error: ApiError) -> dict[str, Any]:
        """The body of an error."""

    @abstractmethod
    def result(self, row: Row, answer: Answer) -> dict[str, Any] | None:
        """The line of a request that was tried."""

    @abstractmethod
    def undone(self, row: Row, status: str) -> dict[str, Any] | None:
        """The line of a request that was not tried since its batch `expired` or was `cancelled`; None: it has none."""


def closed(body: Any, allowed: Collection[str], needed: Collection[str], where: str = "") -> dict[str, Any]:
    """The body, which has all that is needed and nothing that the interface does not know."""
    if not isinstance(body, dict):
        raise ApiError(400, f"{where or 'body'}: Input should be an object")
    for name in sorted(body.keys() - set(allowed)):
        raise ApiError(400, f"{where}{name}: Extra inputs are not permitted")
    for name in sorted(set(needed) - body.keys()):
        raise ApiError(400, f"{where}{name}: Field required")
    return body


def rfc3339(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def now() -> float:
    return time.time()
