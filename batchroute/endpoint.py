"""An OpenAI-compatible endpoint: its URL, the key to it, and clients for it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchroute.errors import InputError
from batchroute.key import Key
from batchroute.redaction import Redactor, host, is_secret, passwords

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

# Of OpenAI, Anthropic, xAI, DeepSeek, Mistral, OpenRouter, Together, Groq, Perplexity, Moonshot, Zhipu, SiliconFlow,
# DashScope, Volcengine, Google and gateways in front of them; as codes too, whose words hang together.
_MONEY = re.compile(
    r"insufficient[ _-]?(account[ _-]?)?(balance|credits?|funds|quota)"
    r"|balance[^.]{0,20}(too low|insufficient|not enough|exhausted)"
    r"|(not[ _]enough|no|out of|exceeded your( monthly included)?|used all available) (balance|credits)\b"
    r"|not_enough_(balance|credits)|credits? (balance )?(is |are |has been )?(too low|exhausted|depleted|insufficient)"
    r"|billing_|billing (hard )?limit|billing is not|requires billing|spend(ing)?[ _](cap|limit)|payment[ _]required"
    r"|exceeded_current_quota|(specified|monthly) (api )?usage limit|monthly (quota|limit|credits)|arrear|overdue"
    r"|account .{0,60}\bis suspended|check your plan and billing details$|余额不足|额度不足|欠费",
    re.IGNORECASE,
)
_MONEY_STATUS = {400, 401, 403, 412, 429}
_SECRET_HEADERS = {"authorization", "cookie", "proxy-authorization"}


def is_out_of_money(status: int, code: str, message: str) -> bool:
    """Whether an error says that nothing more is answered until somebody pays, raises a limit, or a month is over."""
    if status == 402:
        return True
    return status in _MONEY_STATUS and bool(_MONEY.search(code) or _MONEY.search(message))


def read_json(body: bytes) -> Any:
    """The JSON of a body, whatever type the server says it has.

    Raises:
        ValueError: there is none.
    """
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def valid_text(text: str) -> str:
    """The text with `\N{REPLACEMENT CHARACTER}` for halves of characters, which JSON can hold and no file can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def base_url(url: str | None) -> str:
    """The URL that requests go to, as the `openai` package chooses it if none is given."""
    return url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"


class Endpoint:
    """
    Attributes:
        key: where it is from, and its value now.
        passwords: in the URL, in every form in which they may be repeated.
        url: the base URL.
        host: without user and password.
    """

    def __init__(
        self,
        subject: str,
        url: str | None,
        key: Key,
        *,
        needs_key: bool,
        timeout: float,
        retries: int = 0,
        hint: str = "",
        headers: Mapping[str, str | None] | None = None,
        query: Mapping[str, str] | None = None,
        key_header: str | None = None,
        **client: str | None,
    ) -> None:
        """Args:
            subject: what uses the endpoint, for messages.
            url: the base URL; None for the package's own choice.
            needs_key: whether a missing key is an error.
            timeout: seconds that a request may take, from its sending to the last byte of the answer.
            retries: of a request, made by the client.
            hint: ends the message about a missing key.
            headers: of every request; None leaves out one that the client would send.
            query: parameters of every request's URL.
            key_header: the header with the key; `Authorization`, after the word Bearer, unless set.
            client: further arguments of the client.

        Raises:
            InputError: the `openai` package or the key is missing, or the URL is malformed.
        """
        if importlib.util.find_spec("openai") is None:
            raise InputError(f"{subject} needs a package: pip install 'batchroute[openai]'")
        self.key = key
        if needs_key and not key.value:
            what = f"{key.source} {key.lack}" if key.lack == "is empty" else f"set {key.source}"
            raise InputError(f"{subject} needs a key: {what}{hint}")
        used_url = base_url(url)
        if not _is_url(used_url):
            # The message leaves the URL out: there may be a password in it.
            raise InputError(
                f"the endpoint of {subject} is no base URL such as https://api.example.com/v1; "
                "in a user and a password before the host, characters such as / # @ are written %2F %23 %40"
            )
        self.passwords = passwords(used_url)
        self.url, self.host = used_url.rstrip("/"), host(used_url)
        self._given = {**(headers or {}), **(query or {})}
        self._unwanted = [name for name, value in (headers or {}).items() if value is None]
        self._key_header = key_header
        self._options: dict[str, Any] = {
            "base_url": url,
            "timeout": timeout,
            "max_retries": retries,
            "default_headers": {name: value for name, value in (headers or {}).items() if value is not None},
            "default_query": dict(query or {}),
            **client,
        }

    @functools.cached_property
    def openai(self) -> Any:
        """The `openai` package. Its import takes half a second, which a check of the settings spares."""
        return importlib.import_module("openai")

    @property
    def redactor(self) -> Redactor:
        """Removes the key, passwords, and secret headers and parameters from text."""
        given = [value for name, value in self._given.items() if is_secret(name) or name.lower() in _SECRET_HEADERS]
        return Redactor((self.key.value, *self.passwords, *given))

    def client(self) -> OpenAI:
        """A client whose requests end by their time-out, in whatever pieces an answer comes."""
        hooks: dict[str, list[Any]] = {"request": [_begin, self._strip], "response": [_limit]}
        http = self.openai.DefaultHttpxClient(event_hooks=hooks)
        client: OpenAI = self.openai.OpenAI(http_client=http, api_key=self._key, **self._options)
        return client

    def async_client(self) -> AsyncOpenAI:
        """A client whose time-out is of each piece of an answer: the caller limits the whole request."""

        async def key() -> str:
            return self._key()

        async def strip(request: Any) -> None:
            self._strip(request)

        http = self.openai.DefaultAsyncHttpxClient(event_hooks={"request": [strip]})
        client: AsyncOpenAI = self.openai.AsyncOpenAI(http_client=http, api_key=key, **self._options)
        return client

    def _strip(self, request: Any) -> None:
        # The client itself refuses to leave out the header with the key.
        if self._key_header is not None:
            request.headers.pop("Authorization", None)
            if self.key.value:
                request.headers.setdefault(self._key_header, self.key.value)
        for name in self._unwanted:
            request.headers.pop(name, None)

    def _key(self) -> str:
        # A server of one's own needs no key, but the client does.
        return self.key.value or "none"


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # `port` raises ValueError for a port that is no number.
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _begin(request: Any) -> None:
    request.extensions["batchroute_begun"] = time.monotonic()


def _limit(response: Any) -> None:
    seconds = response.request.extensions.get("timeout", {}).get("read")
    if seconds is not None:
        response.stream = _limited(response.stream, response.request.extensions["batchroute_begun"] + seconds)


def _limited(stream: Any, until: float) -> Any:
    """A stream that ends with `TimeoutError` at the first piece after `until`."""
    # The client's HTTP library has another name in older versions of it.
    library = importlib.import_module(type(stream).__module__.partition(".")[0])

    class Limited(library.SyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            for piece in stream:
                if time.monotonic() > until:
                    raise TimeoutError
                yield piece

        def close(self) -> None:
            stream.close()

    return Limited()
