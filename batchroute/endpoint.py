"""An OpenAI-compatible endpoint: its URL, the key to it, and clients for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchroute.errors import InputError
from batchroute.redaction import Redactor, host, passwords

if TYPE_CHECKING:
    import openai


def base_url(url: str | None) -> str:
    """The URL that requests go to, as the `openai` package chooses it if none is given."""
    return url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"


class Endpoint:
    """
    Attributes:
        openai: the `openai` package.
        key: empty if there is none.
        passwords: in the URL, in every form in which they may be repeated.
        redactor: removes key and passwords from text.
        host: without user and password.
    """

    def __init__(
        self,
        subject: str,
        url: str | None,
        api_key_env: str,
        *,
        needs_key: bool,
        timeout: float,
        retries: int = 0,
        hint: str = "",
    ) -> None:
        """Args:
            subject: what uses the endpoint, for messages.
            url: the base URL; None for the package's own choice.
            api_key_env: the environment variable with the key.
            needs_key: whether a missing key is an error.
            timeout: seconds that a request may take.
            retries: of a request, made by the client.
            hint: ends the message about a missing key.

        Raises:
            InputError: the `openai` package or the key is missing, or the key or the URL is malformed.
        """
        try:
            import openai
        except ImportError as error:
            raise InputError(f"{subject} needs a package: pip install 'batchroute[openai]'") from error
        self.openai = openai
        # Key files end in a line break, which no header may contain; the client's error would repeat the key.
        self.key = os.environ.get(api_key_env, "").strip()
        if needs_key and not self.key:
            raise InputError(f"{subject} needs a key: set the environment variable {api_key_env}{hint}")
        if not (self.key.isascii() and self.key.isprintable()):
            raise InputError(
                f"what the environment variable {api_key_env} holds is no key: "
                "it has line breaks or characters beyond ASCII in it"
            )
        used_url = base_url(url)
        if not _is_url(used_url):
            # The message leaves the URL out: there may be a password in it.
            raise InputError(
                f"the endpoint of {subject} is no base URL such as https://api.example.com/v1; "
                "in a user and a password before the host, characters such as / # @ are written %2F %23 %40"
            )
        self.passwords = passwords(used_url)
        self.redactor = Redactor((self.key, *self.passwords))
        self.host = host(used_url)

        # A server of one's own needs no key, but the client does.
        key = self.key or "none"
        self._options: dict[str, Any] = {"api_key": key, "base_url": url, "timeout": timeout, "max_retries": retries}

    def client(self) -> openai.OpenAI:
        return self.openai.OpenAI(**self._options)

    def async_client(self) -> openai.AsyncOpenAI:
        return self.openai.AsyncOpenAI(**self._options)


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # `port` raises ValueError for a port that is no number.
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
