"""Chats in the spellings that people store them in, read as messages of one form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchroute.prompt import Message, Prompt
from batchroute.tables.types import bare, is_list, is_message, is_text

OF_TOOLS = ("name", "tool_calls", "tool_call_id", "function_call")
"""What is kept of a message besides its role and its content."""
_WRAPPERS = ("messages", "conversations", "conversation")
_TEXT_PARTS = (None, "text", "input_text", "output_text")
# What ShareGPT's `from` says → the role.
_SHAREGPT = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    **{role: role for role in ("user", "assistant", "system", "developer", "tool", "function")},
}


@dataclass(frozen=True, slots=True)
class BadPrompt:
    """A row without a usable prompt; it stays in the output as failed."""

    error_type: str
    error: str


class _BadChatError(Exception):
    """The words are the row's error."""


def is_plain_chat(kind: pa.DataType) -> bool:
    """Whether the type is a list of messages with a role and a text, and nothing of tools."""
    kind = bare(kind)
    return is_list(kind) and is_message(kind.value_type) and not _names(bare(kind.value_type)) & set(OF_TOOLS)


def is_chat(kind: pa.DataType) -> bool:
    """Whether the type is a list of messages in any spelling, or an object that holds one."""
    kind = bare(kind)
    if pa.types.is_struct(kind):
        return any(is_chat(field.type) for field in kind.fields if field.name in _WRAPPERS)
    if not is_list(kind) or not pa.types.is_struct(bare(kind.value_type)):
        return False
    fields = {field.name: bare(field.type) for field in bare(kind.value_type).fields}
    for role, content in (("role", "content"), ("from", "value")):
        if role in fields and content in fields and is_text(fields[role]):
            kind = fields[content]
            return is_text(kind) or (is_list(kind) and pa.types.is_struct(bare(kind.value_type)))
    return False


def read_json(text: str) -> Prompt | BadPrompt:
    """The chat in a JSON text; a JSON string is a prompt of plain text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = (
            f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        )
        return BadPrompt("bad_chat", f"not a chat in JSON: {why}")
    prompt = value if isinstance(value, str) else read_chat(value)
    if "\\u" in text and not isinstance(prompt, BadPrompt):
        try:
            json.dumps(prompt, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return BadPrompt("bad_text", "not valid Unicode: half of a surrogate pair")
    return prompt


def read_chat(value: Any) -> list[Message] | BadPrompt:
    """The messages of a chat: a list of them, an object with `messages`, or ShareGPT's `from` and `value`."""
    try:
        messages = [_message(number, message) for number, message in enumerate(_listed(value))]
    except _BadChatError as error:
        return BadPrompt("bad_chat", str(error))
    if not messages:
        return BadPrompt("empty_prompt", "the list of messages is empty")
    if all(_is_empty(message) for message in messages):
        return BadPrompt("empty_prompt", "all messages are empty")
    return messages


def looks_like_chat(text: str) -> bool | None:
    """Whether a text is a chat in JSON. None: it is empty, JSON of another kind or broken, and may have been one."""
    text = text.lstrip()
    if not text:
        return None
    if text.startswith('"'):
        return None if isinstance(read_json(text), str) else False
    if not text.startswith(("[", "{")):
        return False
    return True if isinstance(read_json(text), list) else None


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return _unwrapped(value)
    if not isinstance(value, list):
        raise _BadChatError("not a chat: neither a list of messages nor an object with 'messages'")
    return value


def _unwrapped(chat: Mapping[str, Any]) -> list[Any]:
    if chat.get("tools") or chat.get("functions"):
        raise _BadChatError(
            "the chat defines tools of its own, which are not sent; define them in models.*.extra_body, and name the "
            "messages alone as input.prompt"
        )
    key = next((name for name in _WRAPPERS if chat.get(name) is not None), None)
    if key is None:
        if chat.get("role") or chat.get("from"):
            return [chat]
        raise _BadChatError("not a chat: neither a list of messages nor an object with 'messages'")
    messages = chat[key]
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError):
            messages = None
    if not isinstance(messages, list):
        raise _BadChatError(f"'{key}' is no list of messages")
    system = chat.get("system")
    return [{"role": "system", "content": system}, *messages] if isinstance(system, str) and system else messages


def _message(number: int, message: Any) -> Message:
    if message is None:
        raise _BadChatError(f"message {number} is null")
    if not isinstance(message, Mapping):
        raise _BadChatError(f"message {number} is no object with role and content")
    role, content = message.get("role"), message.get("content")
    if role is None and message.get("from") is not None:
        role, content = _SHAREGPT.get(str(message["from"]).lower()), message.get("value")
        if role is None:
            raise _BadChatError(f"message {number} is from nobody that is a role; use human, gpt, system or tool")
    of_tools = {key: message[key] for key in OF_TOOLS if message.get(key)}
    if not role or not isinstance(role, str):
        raise _BadChatError(f"message {number} has no role")
    if content is None:
        if "tool_calls" not in of_tools and "function_call" not in of_tools:
            raise _BadChatError(f"message {number} has no content")
        content = ""
    return {"role": role, "content": _content(number, content), **of_tools}


def _content(number: int, content: Any) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    parts = [_part(number, part) for part in (content if isinstance(content, list) else [content])]
    if all(part.get("type") == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(number: int, part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping) or not part:
        raise _BadChatError(f"the content of message {number} is neither text nor a list of parts")
    if part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if part.get("type") in _TEXT_PARTS and "text" in part:
        raise _BadChatError(f"a part of message {number} is text without a text")
    return dict(part)


def _is_empty(message: Message) -> bool:
    content = message["content"]
    return isinstance(content, str) and not content.strip() and "tool_calls" not in message


def without_nulls(value: Any) -> Any:
    """A value of an Arrow column without the fields that only other rows have."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _names(kind: pa.DataType) -> set[str]:
    return {field.name for field in kind.fields}
