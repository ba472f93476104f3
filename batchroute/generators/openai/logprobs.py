"""The log-probabilities of an answer from an endpoint."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from batchroute.generators.signals import of_tokens


def signals_of(logprobs: Any, text: str, cut: bool) -> tuple[float | None, float | None]:
    """The signals in a choice's `logprobs`, as `signals.of_tokens` gives them; (None, None) if there are none.

    Args:
        cut: the text is a part of what the tokens spell: those before and behind it do not count.
    """
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    entries = [one for one in content if isinstance(one, Mapping)] if isinstance(content, list) else []
    values = [float(value) for one in entries if isinstance(value := one.get("logprob"), int | float)]
    if len(values) < len(entries):
        return None, None
    if cut:
        written, wanted = [_bytes(one) for one in entries], text.encode()
        first = max(b"".join(written).rfind(wanted), 0)
        ends = list(itertools.accumulate(map(len, written)))
        # A token with any byte of the text counts.
        values = [
            value
            for value, end, part in zip(values, ends, written, strict=True)
            if first < end and end - len(part) < first + len(wanted)
        ]
    return of_tokens(values)


def _bytes(entry: Mapping[str, Any]) -> bytes:
    """The text of a token, which may be a part of a character."""
    given = entry.get("bytes")
    if isinstance(given, list) and all(isinstance(one, int) and 0 <= one < 256 for one in given):
        return bytes(given)
    return str(entry.get("token") or "").encode(errors="replace")
