"""From a prompt to the text that a model reads: chat templates, few-shot templates, system messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchroute.generators.base import PLACEHOLDER, Message, ModelSpec, Prompt, as_messages, as_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatError(Exception):
    """The model's chat template does not accept these messages."""


class Renderer:
    """Renders prompts for one model.

    With a chat template, `template` wraps the last user message, and the model's own markup goes around the whole.
    Without one, `template` wraps the prompt's text, and `system` stands before it.
    """

    def __init__(self, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> None:
        self._template = spec.template
        self._system = spec.system
        self._tokenizer = tokenizer
        self.chat = tokenizer.chat_template is not None

    def render(self, prompt: Prompt) -> str:
        """The text to tokenise; special tokens are already in it when `self.chat`.

        Raises:
            ChatError: the chat template refuses the messages.
        """
        if self.chat:
            return self._render_chat(prompt)
        text = self._wrap(as_text(prompt))
        return text if self._system is None else f"{self._system}\n\n{text}"

    def _render_chat(self, prompt: Prompt) -> str:
        from jinja2 import TemplateError

        messages = self._wrap_last_user_message(as_messages(prompt, self._system))
        try:
            rendered = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise ChatError(str(error)) from error
        assert isinstance(rendered, str)
        return rendered

    def _wrap(self, text: str) -> str:
        # Not str.format: prompts and few-shot examples are full of braces.
        return text if self._template is None else self._template.replace(PLACEHOLDER, text)

    def _wrap_last_user_message(self, messages: list[Message]) -> list[Message]:
        if self._template is None:
            return messages
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
        return [
            {**message, "content": self._wrap(message["content"])} if i == last else message
            for i, message in enumerate(messages)
        ]
