"""Keeping secrets out of what is written: errors that servers send back may repeat the key that they were sent."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

from batchroute.errors import first_line

_HIDDEN = "***"
_SHORTEST = 4


class Redactor:
    """Replaces secrets in text."""

    def __init__(self, secrets: Iterable[str | None]) -> None:
        known = {form for secret in secrets if secret and len(secret) >= _SHORTEST for form in (secret, quote(secret))}
        # The longest first: one secret may be a part of another.
        self._secrets = sorted(known, key=len, reverse=True)

    def line(self, error: BaseException | str) -> str:
        """The first line of a message, without secrets."""
        return self.text(first_line(RuntimeError(self.text(str(error)))))

    def text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text


def host(url: str) -> str:
    """The host of a URL, without the user and password that may stand before it."""
    return urlsplit(url).netloc.rsplit("@", 1)[-1]


def passwords(url: str) -> list[str]:
    """The password in a URL, or the user where there is none: as it stands there, in plain words, and as it is sent."""
    parts = urlsplit(url)
    user, given = parts.username or "", parts.password or ""
    if not user and not given:
        return []
    sent = base64.b64encode(f"{unquote(user)}:{unquote(given)}".encode()).decode()
    return [given or user, unquote(given or user), sent]
