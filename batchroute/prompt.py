"""A prompt: one text, or chat messages."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]
"""One chat message: `{"role": …, "content": …}`; where tools are called also `tool_calls`, `tool_call_id` and the like.

The content is text. It is a list of parts in OpenAI's form only if one of them is no text, such as an image.
"""

Prompt = str | list[Message]

HALF_A_PAIR = "it holds half of a surrogate pair"


def has_half_a_pair(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which JSON can hold and no encoding can."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def as_text(prompt: Prompt) -> str:
    """The prompt as one text: the contents of its messages with blank lines between. Routers and metrics read it."""
    return prompt if isinstance(prompt, str) else "\n\n".join(map(content_text, prompt))


def content_text(message: Message) -> str:
    """The text of a message, without the parts that are no text."""
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if is_text_part(part))


def is_text_part(part: dict[str, Any]) -> bool:
    return part.get("type") == "text"


def other_than_text(prompt: Prompt) -> str | None:
    """The first part that is no text, in words: `message 0 holds image_url`; None if all of the prompt is text."""
    if isinstance(prompt, str):
        return None
    for number, message in enumerate(prompt):
        if not isinstance(message["content"], str):
            part = next(part for part in message["content"] if not is_text_part(part))
            return f"message {number} holds {part.get('type', 'a part')}, which is no text"
    return None
