"""What an answer took, by the `usage` of its body. Providers name the counts differently, and some count wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# No model reads or writes more in one request; a count beyond it is a mistake.
_MOST = 10_000_000

_READ = ("prompt_tokens", "input_tokens")
_WRITTEN = ("completion_tokens", "output_tokens")
_READ_DETAILS = ("prompt_tokens_details", "prompt_token_details", "input_tokens_details", "input_token_details")
_WRITTEN_DETAILS = (
    "completion_tokens_details", "completion_token_details", "output_tokens_details", "output_token_details",
)  # fmt: skip
# OpenAI, vLLM, xAI, Gemini and Mistral have `cached_tokens` in details; Moonshot and Together beside the other counts.
_CACHED = ("cached_tokens", "cache_read", "cache_read_tokens", "cached_prompt_tokens", "num_cached_tokens")
_CACHED_ALONE = (
    *_CACHED,
    "prompt_cache_hit_tokens",  # DeepSeek
    "cache_read_input_tokens",  # Anthropic
    "cached_input_tokens",
    "cached_prompt_text_tokens",  # xAI, formerly
    "cached_content_token_count",  # Gemini
)
_REASONING = ("reasoning_tokens", "thinking_tokens", "reasoning", "thoughts_token_count")
_CACHE_WRITTEN = ("cache_creation_input_tokens", "cache_write_tokens")


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens by the server; None where it gives no count that makes sense."""

    read: int | None
    written: int | None
    cached: int = 0
    reasoning: int = 0


def counts_of(usage: Any) -> Counts:
    """The counts in the `usage` of a body.

    `total_tokens` tells whether the reasoning is among the written tokens (OpenAI, DeepSeek) or comes on top of them
    (xAI, Gemini): providers bill it either way.
    """
    if not isinstance(usage, Mapping):
        return Counts(None, None)
    read, written = _first(usage, _READ), _first(usage, _WRITTEN)
    cached = max([_first(usage, _CACHED_ALONE) or 0, *_in_details(usage, _READ_DETAILS, _CACHED)])
    reasoning = max([_first(usage, _REASONING) or 0, *_in_details(usage, _WRITTEN_DETAILS, _REASONING)])
    beside = (_first(usage, ("cache_read_input_tokens",)) or 0) + (_first(usage, _CACHE_WRITTEN) or 0)
    if read is not None and "prompt_tokens" not in usage:
        # Anthropic's `input_tokens` are those that its cache neither gave nor took.
        read, beside = read + beside, 0
    total = _count(usage.get("total_tokens"))
    if read is not None and written is not None:
        missing = 0 if total is None else total - read - written
        if missing > 0 and missing == beside:
            read += missing
        elif missing > 0:
            written, reasoning = written + missing, max(reasoning, missing)
        elif total is None and reasoning > written:
            written += reasoning
    elif written is None and read is not None and total is not None and total >= read:
        written = total - read
    return Counts(read, written, min(cached, read or 0), min(reasoning, written or 0))


def _first(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((count for name in names if (count := _count(usage.get(name))) is not None), None)


def _in_details(usage: Mapping[str, Any], places: tuple[str, ...], names: tuple[str, ...]) -> list[int]:
    details = (usage.get(place) for place in places)
    return [count for one in details if isinstance(one, Mapping) and (count := _first(one, names)) is not None]


def _count(value: Any) -> int | None:
    """A count that makes sense: a whole number, not negative and not huge."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _MOST else None
