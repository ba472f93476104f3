"""Secrets and rows stay out of logs, messages and the screen: errors of servers and libraries may repeat what they were
sent.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

from batchroute.errors import first_line

_HIDDEN = "***"
_SHORTEST = 4
# This many letters and digits in a row, in two texts, are no coincidence.
_PIECE = 16
# What a quotation may add, change or leave out: punctuation, white space, and escapes of JSON and Python.
_BETWEEN = re.compile(r"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[nrtbf])|[\W_]+")
# Names of secrets; the first also within a parameter's name. Parameters that are not secret belong to a run's identity.
_WORDS = ("password", "passwd", "secret", "token", "key", "credential", "signature")
_WHOLE_WORDS = {*_WORDS, "apikey", "auth", "credentials", "passcode", "pwd", "sig"}


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


def without_quotes(words: str, prompt: object) -> str:
    """The words of an error, cut where they repeat the prompt, text or messages, or a part of it: more people read logs
    than data.
    """
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    for shown in (words, words.partition(": ")[0]):
        if not _quotes(shown, text):
            return shown if shown == words else f"{shown} (the rest quotes a prompt and is not shown)"
    return "an error that quotes a prompt and is not shown"


def _quotes(words: str, text: str) -> bool:
    said, given = (_BETWEEN.sub("", part).lower() for part in (words, text))
    if len(given) < _PIECE:
        return len(given) >= _SHORTEST and given in said
    return any(said[at : at + _PIECE] in given for at in range(len(said) - _PIECE + 1))


def host(url: str) -> str:
    """The host and port of a URL, without user and password."""
    return urlsplit(url).netloc.rsplit("@", 1)[-1]


def passwords(url: str) -> list[str]:
    """The secrets in a URL: its password, or the user where it has no password, as written, decoded, and as a header
    sends both; and its secret parameters, as `secret_parameters` gives them.
    """
    parts = urlsplit(url)
    user, password = parts.username or "", parts.password or ""
    secrets = secret_parameters(url)
    if user or password:
        header = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        secrets += [password or user, unquote(password or user), header]
    return secrets


def secret_parameters(url: str) -> list[str]:
    """The values of a URL's parameters such as `?password=` and `&token=`, as written and decoded."""
    query = urlsplit(url).query
    written = [
        value for name, _, value in (pair.partition("=") for pair in query.split("&")) if is_secret(unquote(name))
    ]
    return [form for value in written if value for form in (value, unquote(value.replace("+", " ")))]


def is_secret(parameter: str) -> bool:
    """Whether a URL's parameter holds a secret, by its name, in which words run together: `sslkey`, `privateKey`."""
    name = parameter.lower()
    return any(word in name for word in _WORDS) or name in _WHOLE_WORDS


def is_secret_variable(name: str) -> bool:
    """Whether a variable or an option holds a secret, by its name: `HF_TOKEN` and `s3.secret-access-key`, but neither
    `TOKENIZERS_PARALLELISM` nor `KEYBOARD`.
    """
    return not _WHOLE_WORDS.isdisjoint(re.split("[_.-]", name.lower()))


def hide_parameters(text: str) -> str:
    """Text without the parameters of the URLs in it, which may be signatures."""
    return re.sub(r"(://[^\s?'\"]+\?)[^\s'\"]+", rf"\1{_HIDDEN}", text)
