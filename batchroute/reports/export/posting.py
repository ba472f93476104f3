"""Posting to a server whose address may hold a secret: a few tries, and a warning that names its host alone."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPMessage
from typing import IO, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

import tenacity
from pydantic import SecretStr

from batchroute import __version__
from batchroute.redaction import host

_TRANSIENT = (429, 500, 502, 503, 504)


class Retries(NamedTuple):
    """How often a server is called, and the seconds before the second call, of one call, and of all calls."""

    attempts: int = 4
    first_wait: float = 1.0
    one: float = 8.0
    all: float = 20.0


Call = Callable[[str, dict[str, str], float], None]
"""Takes a URL without user and password, a header with them, and a time limit in seconds."""


def post(url: str, headers: Mapping[str, str], body: bytes, seconds: float) -> None:
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


def tried(what: str, address: SecretStr, call: Call, retries: Retries) -> list[str]:
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
