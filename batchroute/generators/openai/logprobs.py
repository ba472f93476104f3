"""The log-probabilities of an answer from an endpoint, and the endpoints that refuse to give them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from batchroute.generators.openai.failures import Failure
from batchroute.generators.signals import of_tokens

_NAMED = re.compile("log[ _-]?prob", re.IGNORECASE)


def refuses(failure: Failure) -> bool:
    """Whether a request failed because it asks for log-probabilities.

    Args:
        failure: without the prompt's words.
    """
    return failure.kind in ("row", "forbidden") and _NAMED.search(failure.words) is not None


def signals_of(logprobs: Any, text: str, cut: bool) -> tuple[float | None, float | None]:
    """The signals in a choice's `logprobs`, as `signals.of_tokens` gives them; (None, None) if there are none.

    Args:
        cut: the text is cut before the end of the tokens: those behind it do not count.
    """
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    entries = [one for one in content if isinstance(one, Mapping)] if isinstance(content, list) else []
    values = [float(value) for one in entries if isinstance(value := one.get("logprob"), int | float)]
    if len(values) < len(entries):
        return None, None
    count = len(values)
    if cut:
        ends = itertools.accumulate(len(_bytes(one)) for one in entries)
        # A token that begins before the cut counts.
        count = sum(end - len(_bytes(one)) < len(text.encode()) for end, one in zip(ends, entries, strict=True))
    return of_tokens(values[:count])


def _bytes(entry: Mapping[str, Any]) -> bytes:
    """The text of a token, which may be a part of a character."""
    given = entry.get("bytes")
    if isinstance(given, list) and all(isinstance(one, int) and 0 <= one < 256 for one in given):
        return bytes(given)
    return str(entry.get("token") or "").encode(errors="replace")
