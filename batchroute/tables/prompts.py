"""Prompts of a column: a usable prompt, or what is wrong, for each row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchroute.prompt import Prompt
from batchroute.tables.parquet import PromptKind

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
DIGEST = pa.binary(16)


@dataclass(frozen=True, slots=True)
class BadPrompt:
    """A row without a usable prompt; it stays in the output as failed."""

    error_type: str
    error: str


def column_type(kind: PromptKind) -> pa.DataType:
    """The type that a shard keeps its prompts in."""
    return pa.large_string() if kind == "text" else _MESSAGES


def read_prompts(column: pa.Array, kind: PromptKind) -> list[Prompt | BadPrompt]:
    """One entry a row of `column`."""
    check = _check_text if kind == "text" else _check_messages
    return [value if isinstance(value, BadPrompt) else check(value) for value in _values(column)]


def to_column(prompts: Iterable[Prompt], kind: PromptKind) -> pa.Array:
    return pa.array(prompts, column_type(kind))


def digest(prompt: Prompt) -> bytes:
    """16 bytes that only identical prompts share."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _values(column: pa.Array) -> Iterable[Any]:
    # Readers of parquet do not check text, so that one bad byte makes the whole column undecodable.
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]
    return values


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return BadPrompt("bad_text", f"not valid UTF-8: {error.reason} at byte {error.start}")


def _check_text(value: str | None) -> Prompt | BadPrompt:
    if value is None:
        return BadPrompt("null_prompt", "the prompt is null")
    if not value:
        return BadPrompt("empty_prompt", "the prompt is empty")
    if value.isspace():
        return BadPrompt("empty_prompt", "the prompt is only white space")
    return value


def _check_messages(value: list[dict[str, Any] | None] | None) -> Prompt | BadPrompt:
    if value is None:
        return BadPrompt("null_prompt", "the prompt is null")
    if not value:
        return BadPrompt("empty_prompt", "the list of messages is empty")
    messages = []
    for number, message in enumerate(value):
        if message is None:
            return BadPrompt("bad_chat", f"message {number} is null")
        role, content = message["role"], message["content"]
        if not role or content is None:
            return BadPrompt("bad_chat", f"message {number} has no {'content' if role else 'role'}")
        messages.append({"role": role, "content": content})
    if all(not message["content"].strip() for message in messages):
        return BadPrompt("empty_prompt", "all messages are empty")
    return messages
