"""The text that a model reads: chat templates, few-shot templates, system messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchroute.errors import first_line
from batchroute.generators.base import as_messages
from batchroute.generators.settings import PLACEHOLDER, ModelSpec
from batchroute.prompt import Message, Prompt, as_text, content_text, is_text_part, other_than_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatError(Exception):
    """The model's chat template does not accept these messages, or they hold more than text."""


def chat(spec: ModelSpec, prompt: Prompt) -> list[Message]:
    """The messages to send: the system message first, and the template around the last user message."""
    messages = as_messages(prompt, spec.system)
    last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
    if spec.template is None or last is None:
        return messages
    content: str | list[dict[str, Any]] = _wrap(spec.template, content_text(messages[last]))
    if not isinstance(messages[last]["content"], str):
        others = [part for part in messages[last]["content"] if not is_text_part(part)]
        content = [{"type": "text", "text": content}, *others]
    return [*messages[:last], {**messages[last], "content": content}, *messages[last + 1 :]]


class Renderer:
    """Renders prompts for one model.

    If the tokenizer has a chat template, `template` wraps the last user message, and the chat template renders all
    messages. If not, `template` wraps the prompt's text, and `system` stands before it.
    """

    def __init__(self, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> None:
        self._spec = spec
        self._tokenizer = tokenizer
        self.chat = tokenizer.chat_template is not None

    def render(self, prompt: Prompt) -> str:
        """The text to tokenise. It contains the special tokens if `self.chat`.

        Raises:
            ChatError: the chat template refuses the messages, or they hold more than text.
        """
        other = other_than_text(prompt)
        if other is not None:
            raise ChatError(other)
        if self.chat:
            return self._render_chat(prompt)
        text = as_text(prompt) if self._spec.template is None else _wrap(self._spec.template, as_text(prompt))
        return text if self._spec.system is None else f"{self._spec.system}\n\n{text}"

    def _render_chat(self, prompt: Prompt) -> str:
        from jinja2 import TemplateError

        messages = chat(self._spec, prompt)
        try:
            rendered = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise ChatError(f"the chat template refused it: {first_line(error)}") from error
        assert isinstance(rendered, str)
        return rendered


def _wrap(template: str, text: str) -> str:
    # str.format would trip over the braces of prompts and few-shot examples.
    return template.replace(PLACEHOLDER, text)
