"""Notifications that a run has ended: a webhook, a file for node-exporter's textfile collector, a Pushgateway.

A notification that fails is one line of warning and does not change how the run ends. A webhook's URL may hold a
secret, as with Slack and Teams, so messages name its host alone.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from batchroute import crash
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

if TYPE_CHECKING:
    from batchroute.reports.export.posting import Retries
    from batchroute.reports.night import NightReport

Event = Literal["done", "nothing", "failed", "error", "stopped", "waiting", "crashed", "interrupted", "terminated"]
# A cron that polls every half hour and has nothing to do must not alert anybody.
_QUIET: tuple[Event, ...] = ("nothing", "waiting")


# The sender of the signal kills the process after a while, Kubernetes after 30 s, and the run has used a part of that.
_SECONDS_AFTER_A_SIGNAL = 5.0


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


def send(spec: NotifySpec | None, event: Event, record: Mapping[str, Any], retries: Retries | None = None) -> list[str]:
    """Post to the webhook how a run ended, if `spec.on` has this event.

    Args:
        record: the last line of the JSON log, with `message` and `job_name`. The body adds `time`, and `text`, the line
            that Slack shows.

    Returns:
        A warning for each failure.
    """
    if spec is None or spec.url is None or event not in spec.on:
        return []
    from batchroute.reports.export.posting import Retries, post, tried

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    body = {"text": f"{record['job_name']}: {record['message']}", "time": now, **record}
    if event in ("interrupted", "terminated"):
        retries = Retries(attempts=1, one=_SECONDS_AFTER_A_SIGNAL)
    return tried(
        "the notification",
        spec.url,
        lambda url, headers, seconds: post(url, headers, json.dumps(body, default=str).encode(), seconds),
        retries or Retries(),
    )


def publish(spec: NotifySpec | None, night: NightReport, retries: Retries | None = None) -> list[str]:
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
        from batchroute.reports.export.posting import Retries, tried

        push = functools.partial(_push, night)
        warnings += tried("the metrics", spec.pushgateway, push, retries or Retries())
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


def _push(night: NightReport, url: str, authorization: dict[str, str], seconds: float) -> None:
    from prometheus_client import push_to_gateway
    from prometheus_client.exposition import default_handler

    from batchroute.reports.export import metrics

    def handler(
        url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        return default_handler(url, method, timeout, [*headers, *authorization.items()], data)

    push_to_gateway(url, night.name, metrics.registry(night), timeout=seconds, handler=handler)
