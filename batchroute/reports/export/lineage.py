"""Sending events of lineage, in the form of OpenLineage, to a server or into a file.

An event that cannot be sent costs a few seconds and one line of warning, and does not change how the run ends. The URL
may hold a secret, so that messages name its host alone.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from batchroute.errors import InputError
from batchroute.redaction import host
from batchroute.reports.export.notify import Address

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

SECONDS = 5.0
# Of one request; a second one is made if there is time for it.
_SECONDS_OF_A_REQUEST = 2.0
_PAUSE = 0.3
_ENDPOINT = "api/v1/lineage"


class LineageSpec(BaseModel):
    """Where events of lineage go. No part of a run's identity: it may change between two attempts."""

    model_config = ConfigDict(extra="forbid")

    url: Address | None = Field(default=None, description="of a server; without a path, /api/v1/lineage is added")
    file: str | None = Field(default=None, min_length=1, description="a local file; a line of JSON for each event")
    api_key_env: str = Field(default="OPENLINEAGE_API_KEY", description="holds the key, if the server wants one")
    namespace: str | None = Field(
        default=None, min_length=1, description="of the job; OPENLINEAGE_NAMESPACE or default unless set"
    )
    nominal_time: datetime.datetime | None = Field(default=None, description="when the run was due: ${RUN_DATE}")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.url is None) == (self.file is None):
            raise ValueError("give one of url and file")
        if self.file is not None and "://" in self.file:
            raise ValueError("file is a path on a local disk: a bucket cannot append to an object")
        return self

    @property
    def place(self) -> str:
        return host(self.url.get_secret_value()) if self.url is not None else str(self.file)


def check(spec: LineageSpec | None) -> None:
    """Raises:
    InputError: the client is not installed.
    """
    if spec is not None and importlib.util.find_spec("openlineage") is None:
        raise InputError("lineage needs a package: pip install 'batchroute[lineage]'")


def is_off(spec: LineageSpec | None) -> bool:
    """Whether no events are to be sent; every client of OpenLineage heeds this variable."""
    return spec is None or os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true"


def send(spec: LineageSpec, event: RunEvent, seconds: float = SECONDS) -> str | None:
    """Send an event; returns a warning if that fails.

    Args:
        seconds: after which it counts as failed. A thread sends, since no time-out holds for the name of a host.
    """
    failures: list[Exception] = []
    until = time.monotonic() + seconds

    def work() -> None:
        try:
            _write(spec.file, event) if spec.file is not None else _post(spec, event, until)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="lineage", daemon=True)
    thread.start()
    thread.join(seconds)
    if not failures and not thread.is_alive():
        return None
    return (
        f"{spec.place} did not take the event of lineage: {_reason(failures[0]) if failures else 'no answer in time'}"
    )


def _write(file: str, event: RunEvent) -> None:
    from openlineage.client.transport.file import FileConfig, FileTransport

    path = Path(file).expanduser()
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    FileTransport(FileConfig(log_file_path=str(path), append=True)).emit(event)


def _post(spec: LineageSpec, event: RunEvent, until: float) -> None:
    from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider

    assert spec.url is not None
    url, key = spec.url.get_secret_value(), os.environ.get(spec.api_key_env)
    config = HttpConfig(
        url=url,
        endpoint="" if urlsplit(url).path.strip("/") else _ENDPOINT,
        timeout=_SECONDS_OF_A_REQUEST,
        auth=ApiKeyTokenProvider({"api_key": key}) if key else TokenProvider({}),
        # The client's own would log a line each.
        retry={"total": 0},
    )
    transport = HttpTransport(config)
    try:
        try:
            transport.emit(event)
        except Exception as error:
            if not _may_pass(error) or time.monotonic() + _PAUSE + _SECONDS_OF_A_REQUEST > until:
                raise
            time.sleep(_PAUSE)
            transport.emit(event)
    finally:
        transport.close()


def _may_pass(error: Exception) -> bool:
    import requests

    status = _status(error)
    return isinstance(error, requests.RequestException) and (status is None or status == 429 or status >= 500)


def _status(error: BaseException | None) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _reason(error: Exception) -> str:
    """The error without its own message, which may repeat the address; a message of the system does not."""
    status, cause = _status(error), _system_error(error)
    if status is not None:
        return f"HTTP {status}"
    if "Timeout" in type(error).__name__:
        return "no answer in time"
    return type(error).__name__ if cause is None else str(cause.strerror)


def _system_error(error: BaseException | None) -> OSError | None:
    """The error of the system that led to this one."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno is not None and error.strerror:
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None
