"""Extracting: the part of an answer that a rule names, so that two answers in other words can be compared."""

from __future__ import annotations

import json
import re
from typing import Any

_JSON = "json:"
_START = re.compile(r"[{\[]")


class Extract:
    """A regular expression, or `json:KEY` with dots between the keys of nested objects.

    Of an expression with a group, the group counts; the last place where it fits counts, since answers end with what
    they come to. A JSON value is looked for in the last JSON object of the text, whatever stands around it.
    """

    def __init__(self, rule: str) -> None:
        """Raises:
        ValueError: the rule is no regular expression, or names no key.
        """
        self.rule = rule
        self._keys = rule.removeprefix(_JSON).split(".") if rule.startswith(_JSON) else None
        if self._keys is not None and not all(self._keys):
            raise ValueError(f"'{rule}' names no key: write json:KEY")
        try:
            self._pattern = re.compile(rule if self._keys is None else "")
        except re.error as error:
            raise ValueError(f"'{rule}' is no regular expression: {error}") from error

    def __call__(self, text: str) -> str | None:
        """The part, without white space around it; None if the text has none."""
        if self._keys is not None:
            return _value(text, self._keys)
        found = None
        for match in self._pattern.finditer(text):
            found = next((group for group in match.groups() if group is not None), match[0])
        return found.strip() or None if found is not None else None


def _value(text: str, keys: list[str]) -> str | None:
    """The value of the key in the last object of the text that has it; other values than text as JSON."""
    decoder, found, at = json.JSONDecoder(), None, 0
    while (start := _START.search(text, at)) is not None:
        try:
            value, at = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            at = start.end()
            continue
        known = _at(value, keys)
        found = found if known is None else known
    return None if found is None else found.strip() or None


def _at(value: Any, keys: list[str]) -> str | None:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    if value is None:
        return None
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
