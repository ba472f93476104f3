"""The faults that a test asks for: their spelling, and whose turn it is."""

from __future__ import annotations

import email.utils
import json
import random
import time
from collections import UserDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.openai_server.wire import ApiError

# The model is not asked.
_REFUSALS = {"insufficient_quota", "400_content_filter", "context_overflow", "hang", "html"}
# The model is asked, and what it costs is spent, whatever the client gets to see.
ACTED = {
    "ok",
    "slow",
    "cut",
    "cut_in_body",
    "malformed",
    "empty_choices",
    "no_usage",
    "null_content",
    "refusal",
    "content_filter",
    "wrong_model",
}
# Those that need no connection of their own, and so can befall a line of a batch too.
_IN_A_LINE = ACTED - {"slow", "cut", "cut_in_body", "malformed"} | {
    "insufficient_quota",
    "400_content_filter",
    "context_overflow",
}
BATCH_KINDS = {
    "ok",
    "missing_lines",
    "wrong_ids",
    "duplicate_lines",
    "line_error",
    "malformed_line",
    "expire",
    "cancel",
    "fail_validation",
    "no_output_file",
}
OPERATIONS = ("upload", "file", "download", "delete", "create", "poll", "list", "cancel")
# cut: acts, then cuts. before: cuts and does not act. half: acts, then sends half the answer. A status is answered
# without acting, with `_after` upon having acted.
HOWS = ("cut", "before", "half", "hang")
_MESSAGES = {
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: {key}."),
    403: ("invalid_request_error", "unsupported_country_region_territory", "Country not supported."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist or you do not have access to it."),
    408: ("timeout", None, "Request timed out."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
}


@dataclass(frozen=True)
class Fault:
    """`kind` is a status or one of the names above. `repeat`: it is the last of its schedule, and stays.

    Of a status: `retry_after` (seconds, or with `http_date` a date), `retry_after_ms`, `code`, `message`. Of a slow
    answer: `seconds`. Of a batch: which lines it befalls (`custom_ids`, those whose last user message `contains` a
    text, or a `share`; else the first line), how many are added (`count`), the `status` of an error line (None: an
    error without a response), and whether the `rest` of a cancelled batch is in its error file.
    """

    kind: str
    repeat: bool = False
    retry_after: float | None = None
    retry_after_ms: float | None = None
    http_date: bool = False
    code: str | None = None
    message: str | None = None
    seconds: float = 1.0
    custom_ids: tuple[str, ...] = ()
    contains: str | None = None
    share: float | None = None
    seed: int = 0
    count: int = 1
    status: int | None = 500
    rest: bool = False

    @classmethod
    def read(cls, value: Fault | Mapping[str, Any] | str | int | None) -> Fault:
        """`"500"`, `"500*"` (for ever), `500`, `{"kind": "429", "retry_after": 1}`, None (no fault)."""
        if isinstance(value, Fault):
            return value
        if isinstance(value, Mapping):
            found = cls(**{**value, "kind": str(value["kind"])})
            return replace(found, custom_ids=tuple(found.custom_ids))
        text = "ok" if value is None else str(value)
        return cls(text.removesuffix("*"), repeat=text.endswith("*"))

    @property
    def status_code(self) -> int | None:
        return int(self.kind) if self.kind.isdigit() else None

    @property
    def acts(self) -> bool:
        return self.kind in ACTED

    def saved(self) -> dict[str, Any]:
        return asdict(self)

    def error(self, key: str | None = None) -> ApiError | None:
        """What a fault says instead of an answer, if it is one of these."""
        found = self._special()
        if found is None and self.status_code is not None:
            kind, code, message = _MESSAGES.get(self.status_code, ("server_error", None, "The server had an error."))
            text = self.message or message.format(key=key)
            found = ApiError(self.status_code, text, self.code or code, kind=kind)
        if found is not None:
            found.headers.update(self._retry_headers())
        return found

    def _special(self) -> ApiError | None:
        if self.kind == "insufficient_quota":
            text = "You exceeded your current quota, please check your plan and billing details."
            return ApiError(429, text, "insufficient_quota", kind="insufficient_quota")
        if self.kind == "400_content_filter":
            text = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
            inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
            return ApiError(400, text, "content_filter", "prompt", None, {"status": 400, "innererror": inner})
        if self.kind == "context_overflow":
            text = "This model's maximum context length is 8192 tokens. However, your messages resulted in more."
            return ApiError(400, text, "context_length_exceeded", "messages")
        return None

    def _retry_headers(self) -> dict[str, str]:
        found = {}
        asked = self.retry_after is not None or self.retry_after_ms is not None
        seconds = 1 if self.kind == "429" and not asked else self.retry_after
        if seconds is not None:
            moment = email.utils.formatdate(time.time() + seconds, usegmt=True)
            found["Retry-After"] = moment if self.http_date else f"{seconds:g}"
        if self.retry_after_ms is not None:
            found["Retry-After-Ms"] = f"{self.retry_after_ms:g}"
        return found


class Schedule(UserDict[str, list[Fault]]):
    """Faults by a text that the last user message contains; each such request takes the next one."""

    def __setitem__(self, text: str, faults: Any) -> None:
        listed = faults if isinstance(faults, list | tuple) else [faults]
        super().__setitem__(text, [_known(Fault.read(one), ACTED | _REFUSALS) for one in listed])

    def take(self, message: str, kinds: Iterable[str] | None = None) -> Fault | None:
        for text, faults in list(self.items()):
            if faults and text in message:
                allowed = kinds is None or faults[0].kind in kinds or faults[0].status_code is not None
                return _next(faults) if allowed else None
        return None


class Calls(UserDict[str, int]):
    """How many calls yet of an operation go wrong, and how: `{"create_cut": 1, "poll_500": 2}`."""

    def __setitem__(self, name: str, calls: int) -> None:
        operation, _, how = name.partition("_")
        if operation not in OPERATIONS or not (how in HOWS or how.removesuffix("_after").isdigit()):
            raise ValueError(f"no fault is called {name!r}; choose one of {OPERATIONS} and of {HOWS} or a status")
        super().__setitem__(name, calls)

    def take(self, operation: str) -> str | None:
        for name, left in list(self.items()):
            asked, _, how = name.partition("_")
            if asked == operation and left > 0:
                self[name] = left - 1
                return how
        return None


class Faults:
    """All that a test has asked for, from the program or from a file that is read again when it changes."""

    def __init__(self, file: Path | None = None) -> None:
        self.chat = Schedule()
        self.http = Calls()
        self._batches: list[list[Fault]] = []
        self._random: list[tuple[Fault, float, random.Random]] = []
        self._file, self._seen = file, (0, 0)

    def random_fault(self, kind: Any, share: float, seed: int = 0) -> None:
        self._random.append((_known(Fault.read(kind), ACTED | _REFUSALS), share, random.Random(seed)))

    @property
    def batches(self) -> list[list[Fault]]:
        return self._batches

    @batches.setter
    def batches(self, entries: Iterable[Any]) -> None:
        each = [entry if isinstance(entry, list | tuple) else [entry] for entry in entries]
        self._batches = [[_known(Fault.read(one), BATCH_KINDS) for one in entry] for entry in each]

    def clear(self) -> None:
        self.chat.clear()
        self.http.clear()
        self._batches, self._random = [], []

    def of_chat(self, message: str) -> Fault | None:
        self._read()
        found = self.chat.take(message)
        if found is not None:
            return found
        return next((fault for fault, share, chance in self._random if chance.random() < share), None)

    def of_line(self, message: str) -> Fault | None:
        self._read()
        return self.chat.take(message, _IN_A_LINE)

    def of_batch(self) -> list[Fault]:
        """Each batch that is created takes the next entry; one with a fault that repeats stays."""
        self._read()
        if not self._batches:
            return []
        return self._batches[0] if any(one.repeat for one in self._batches[0]) else self._batches.pop(0)

    def of_http(self, operation: str) -> str | None:
        self._read()
        return self.http.take(operation)

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return
        if (found.st_mtime_ns, found.st_ino) != self._seen:
            self._seen = (found.st_mtime_ns, found.st_ino)
            asked = json.loads(self._file.read_bytes())
            self.clear()
            self.chat.update(asked.get("chat", {}))
            self.http.update(asked.get("http", {}))
            self.batches = asked.get("batches", [])
            for one in asked.get("random", []):
                self.random_fault(one["kind"], one["share"], one.get("seed", 0))


def _next(faults: list[Fault]) -> Fault:
    return faults[0] if faults[0].repeat else faults.pop(0)


def _known(fault: Fault, kinds: set[str]) -> Fault:
    if fault.status_code is None and fault.kind not in kinds:
        raise ValueError(f"no fault is called {fault.kind!r}; choose of a status, {', '.join(sorted(kinds))}")
    return fault
