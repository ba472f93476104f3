"""Notifications that a run has ended: a webhook, a file for node-exporter's textfile collector, a Pushgateway.

A notification that fails is one line of warning and does not change how the run ends. A webhook's URL may hold a
secret, as with Slack and Teams, so messages name its host alone.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import unquote, urlsplit, urlunsplit

import tenacity
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from batchroute import __version__, crash
from batchroute.errors import (
    EXIT_CRASHED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    BatchrouteError,
    CrashedError,
    StoppedError,
    Terminated,
    WaitingError,
)
from batchroute.redaction import host

if TYPE_CHECKING:
    from batchroute.reports.night import NightReport

Event = Literal["done", "nothing", "failed", "error", "stopped", "waiting", "crashed", "interrupted", "terminated"]
# A cron that polls every half hour and has nothing to do must not alert anybody.
_QUIET: tuple[Event, ...] = ("nothing", "waiting")


class Retries(NamedTuple):
    """How often a server is called, and the seconds before the second call, of one call, and of all calls."""

    attempts: int = 4
    first_wait: float = 1.0
    one: float = 8.0
    all: float = 20.0


_RETRIES = Retries()
# The sender of the signal kills the process after a while, Kubernetes after 30 s, and the run has used a part of that.
_SECONDS_AFTER_A_SIGNAL = 5.0
_TRANSIENT = (429, 500, 502, 503, 504)


def _address(value: object) -> SecretStr:
    """Check a URL without repeating it in an error message, as pydantic would."""
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str) or not value.strip():
        raise ValueError("it is empty or not text; give a URL such as ${HOOK}, and set that environment variable")
    url = value.strip()
    try:
        parts = urlsplit(url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        ok = False
    if not ok or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("it is not a URL with https:// or http:// and without spaces (its text is not shown here)")
    return SecretStr(url)


Address = Annotated[SecretStr, BeforeValidator(_address)]


class NotifySpec(BaseModel):
    """Who is notified that a run has ended. No part of a run's identity: it may change between two attempts."""

    model_config = ConfigDict(extra="forbid")

    url: Address | None = Field(default=None, description="a webhook that takes a POST of JSON")
    on: list[Event] = Field(
        default=[event for event in get_args(Event) if event not in _QUIET],
        description="the ends that the webhook gets; all but nothing and waiting unless set",
    )
    metrics: str | None = Field(default=None, min_length=1, description="a local file for node-exporter, NAME.prom")
    pushgateway: Address | None = Field(default=None, description="base URL of a Prometheus Pushgateway")


def ending(error: BaseException) -> tuple[Event, int, str]:
    """How an exception ends a run: the event, the exit code and the message."""
    if isinstance(error, Terminated):
        return "terminated", EXIT_TERMINATED, "terminated; run the same command again to go on"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", EXIT_INTERRUPTED, "interrupted; run the same command again to go on"
    if isinstance(error, CrashedError) or not isinstance(error, BatchrouteError):
        return "crashed", EXIT_CRASHED, crash.sentence(error, "in the run's log")
    if isinstance(error, WaitingError):
        return "waiting", error.exit_code, str(error)
    return "stopped" if isinstance(error, StoppedError) else "error", error.exit_code, str(error)


def send(spec: NotifySpec | None, event: Event, record: Mapping[str, Any], retries: Retries = _RETRIES) -> list[str]:
    """Post to the webhook how a run ended, if `spec.on` has this event.

    Args:
        record: the last line of the JSON log, with `message` and `job_name`. The body adds `time`, and `text`, the line
            that Slack shows.

    Returns:
        A warning for each failure.
    """
    if spec is None or spec.url is None or event not in spec.on:
        return []
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    body = {"text": f"{record['job_name']}: {record['message']}", "time": now, **record}
    if event in ("interrupted", "terminated"):
        retries = Retries(attempts=1, one=_SECONDS_AFTER_A_SIGNAL)
    return _try(
        "the notification",
        spec.url,
        lambda url, headers, seconds: _post(url, headers, json.dumps(body, default=str).encode(), seconds),
        retries,
    )


def publish(spec: NotifySpec | None, night: NightReport, retries: Retries = _RETRIES) -> list[str]:
    """Write and push the metrics of a committed run.

    Returns:
        A warning for each failure.
    """
    if spec is None:
        return []
    warnings: list[str] = []
    if spec.metrics is not None:
        warnings += _write_metrics(Path(spec.metrics), night)
    if spec.pushgateway is not None:
        push = functools.partial(_push, night)
        warnings += _try("the metrics", spec.pushgateway, push, retries)
    return warnings


def _write_metrics(path: Path, night: NightReport) -> list[str]:
    """Replace the file in one step: the collector may read it at any moment. It ignores names without .prom."""
    from batchroute.reports.export import metrics

    # tempfile would create a file that the collector's user may not read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(metrics.render(night), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        return [f"cannot write the metrics to {path}: {error.strerror or type(error).__name__}"]
    return []


Call = Callable[[str, dict[str, str], float], None]
"""Takes a URL without user and password, a header with them, and a time limit in seconds."""


def _push(night: NightReport, url: str, authorization: dict[str, str], seconds: float) -> None:
    from prometheus_client import push_to_gateway
    from prometheus_client.exposition import default_handler

    from batchroute.reports.export import metrics

    def handler(
        url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        return default_handler(url, method, timeout, [*headers, *authorization.items()], data)

    push_to_gateway(url, night.name, metrics.registry(night), timeout=seconds, handler=handler)


def _post(url: str, headers: Mapping[str, str], body: bytes, seconds: float) -> None:
    sent = {"Content-Type": "application/json", "User-Agent": f"batchroute/{__version__}", **headers}
    request = urllib.request.Request(url, body, sent, method="POST")
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=seconds):
        # Only the status counts: `open` raises if it is an error.
        pass


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: it could send the report to another host, or turn the POST into a GET."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _try(what: str, address: SecretStr, call: Call, retries: Retries) -> list[str]:
    """Call, and retry transient errors within about 30 s in all. A warning names only the host of the address."""
    url, headers = _without_user(address.get_secret_value())
    retrying = tenacity.Retrying(
        stop=tenacity.stop_any(tenacity.stop_after_attempt(retries.attempts), tenacity.stop_after_delay(retries.all)),
        wait=tenacity.wait_exponential(multiplier=retries.first_wait, max=4),
        retry=tenacity.retry_if_exception(_is_transient),
        reraise=True,
    )
    try:
        retrying(call, url, headers, retries.one)
    except (OSError, HTTPException, ValueError) as error:
        return [f"{host(url)} did not take {what}: {_reason(error)}"]
    return []


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _TRANSIENT
    return isinstance(error, OSError | HTTPException)


def _reason(error: Exception) -> str:
    """The error without its own message, which may repeat the address; a message of the system does not."""
    if isinstance(error, urllib.error.HTTPError):
        hint = ", a redirect, which is not followed" if 300 <= error.code < 400 else ""
        return f"HTTP {error.code}{hint}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason).__name__


def _without_user(url: str) -> tuple[str, dict[str, str]]:
    """The URL without user and password, and a header with them: urllib would take them for a part of the host."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, {}
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    encoded = base64.b64encode(user.encode()).decode()
    return urlunsplit(parts._replace(netloc=host(url))), {"Authorization": f"Basic {encoded}"}
