"""A prompt: one text, or chat messages."""

from __future__ import annotations

Message = dict[str, str]
"""One chat message: `{"role": …, "content": …}`."""

Prompt = str | list[Message]


def as_text(prompt: Prompt) -> str:
    """The prompt as one text: the contents of its messages with blank lines between. Routers and metrics read it."""
    return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)
