"""What the server has seen, for assertions; with a folder, also as lines that outlive it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.openai_server.wire import Request

_HEADERS = (
    "authorization",
    "content-type",
    "user-agent",
    "idempotency-key",
    "x-stainless-retry-count",
    "api-key",
    "openai-organization",
    "openai-project",
)


@dataclass
class Seen:
    """A request as it came. `fault` is the one it met, and `status` what it was answered with (not in the file)."""

    time: float
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    query: dict[str, str]
    fault: str | None = None
    status: int | None = None


class Records:
    """`served`: how often the model was asked, by last user message. `submitted` and `submitted_ids`: the last user
    messages and custom ids of all batches that were created and passed validation. `completed`: the last user
    messages that batches have answered. `faulted`: the faults met, by kind.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.requests: list[Seen] = []
        self.served = Counter(lines(folder, "served", "message"))
        self.submitted = Counter(lines(folder, "submitted", "message"))
        self.submitted_ids = Counter(lines(folder, "submitted", "custom_id"))
        self.completed = completed(folder)
        self.faulted: Counter[str] = Counter()
        self.max_in_flight = max(lines(folder, "in_flight", "most"), default=0)
        self._folder, self._files, self._lock = folder, dict[str, int](), threading.Lock()

    def see(self, request: Request, body: Any, fault: str | None = None) -> Seen:
        headers = {name: request.headers[name] for name in _HEADERS if name in request.headers}
        seen = Seen(time.time(), request.method, request.path, headers, body, request.query, fault)
        self.requests.append(seen)
        if fault is not None:
            self.faulted[fault] += 1
        self._write("requests", [asdict(seen)] if self._folder is not None else [])
        return seen

    def serve(self, message: str) -> None:
        self._write("served", [{"message": message}])
        self.served[message] += 1

    def submit(self, batch: str, pairs: list[tuple[str, str]]) -> None:
        """Pairs of a custom id and the last user message."""
        self._write("submitted", [{"batch": batch, "custom_id": one, "message": text} for one, text in pairs])
        self.submitted_ids.update(one for one, _ in pairs)
        self.submitted.update(text for _, text in pairs)

    def complete(self, batch: str, answered: dict[str, str]) -> None:
        """Last user messages by custom id."""
        self._write("completed", [{"batch": batch, "custom_id": one, "message": answered[one]} for one in answered])
        self.completed.update(answered.values())

    def in_flight(self, number: int) -> None:
        if number > self.max_in_flight:
            self.max_in_flight = number
            self._write("in_flight", [{"most": number}])

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _write(self, name: str, entries: Iterable[dict[str, Any]]) -> None:
        if self._folder is None or not entries:
            return
        data = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        with self._lock:
            if name not in self._files:
                path = self._folder / f"{name}.jsonl"
                self._files[name] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            # One unbuffered write: a reader, and a server started after a kill, find whole lines.
            os.write(self._files[name], data)


def lines(folder: Path | None, name: str, field: str | None = None) -> list[Any]:
    """The entries of a record, or one field of each."""
    path = folder / f"{name}.jsonl" if folder is not None else None
    if path is None or not path.exists():
        return []
    whole = path.read_bytes()
    entries = [json.loads(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]
    return entries if field is None else [entry[field] for entry in entries]


def completed(folder: Path | None) -> Counter[str]:
    """A server that was killed as it ended a batch ends it, and says so, once more."""
    found = {(entry["batch"], entry["custom_id"]): entry["message"] for entry in lines(folder, "completed")}
    return Counter(found.values())
