"""How long a server asks to wait."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# More seconds are counted since 1970, and not from now.
_EPOCH = 1e9


def retry_after(headers: Mapping[str, str], body: Mapping[str, Any] | None = None) -> float | None:
    """The seconds that a server asks to wait: by `retry-after-ms`, by `retry-after` in seconds or as a date, by
    `retryDelay` in the error's details (Google), or until a limit of which nothing remains is reset.
    """
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        # float() reads `nan` and `inf`, and infinitely long is no time to wait.
        if seconds < float("inf"):
            return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, OSError):
        delay = _retry_delay((body or {}).get("details"))
        return _until_reset(headers) if delay is None else delay


def _until_reset(headers: Mapping[str, str]) -> float | None:
    """The seconds until the limits are reset of which nothing remains, as far as the headers tell.

    `x-ratelimit-remaining-requests: 0` comes with `x-ratelimit-reset-requests: 6m0s` at OpenAI, and
    `anthropic-ratelimit-tokens-remaining` with `anthropic-ratelimit-tokens-reset`, a date.
    """
    spent = [name for name in headers if "ratelimit" in name.lower() and headers[name].strip() == "0"]
    resets = [headers.get(name.lower().replace("remaining", "reset"), "") for name in spent]
    return max((wait for reset in resets if (wait := _wait_of(reset)) is not None), default=None)


def _wait_of(reset: str) -> float | None:
    """The seconds until a reset: a span such as `6m0s` or `20ms`, seconds, seconds since 1970, or a date."""
    parts = _SPAN.findall(reset)
    if parts and "".join(map("".join, parts)) == reset.strip():
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        seconds = float(reset)
    except ValueError:
        try:
            return max(0.0, datetime.fromisoformat(reset.strip()).timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
    if seconds > _EPOCH:
        # Some count milliseconds.
        seconds = (seconds / 1000 if seconds > 100 * _EPOCH else seconds) - time.time()
    return max(0.0, seconds) if seconds < float("inf") else None


def _retry_delay(details: Any) -> float | None:
    delays = (one.get("retryDelay") for one in details if isinstance(one, Mapping)) if isinstance(details, list) else ()
    found = (_SECONDS.fullmatch(delay) for delay in delays if isinstance(delay, str))
    return next((float(match[1]) for match in found if match), None)
