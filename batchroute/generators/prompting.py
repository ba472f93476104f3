"""The text that a model reads: chat templates, few-shot templates, system messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchroute.errors import InputError, first_line
from batchroute.generators.base import as_messages
from batchroute.generators.settings import PLACEHOLDER, ModelSpec
from batchroute.prompt import Message, Prompt, as_text, content_text, is_text_part, other_than_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from batchroute.generators.plain_template import PlainTemplate


TEMPLATE_REFUSED = "the chat template refused it"
"""The first words of a `ChatError` about the template, and not about a row that holds more than text."""

_PROBE = "What is the capital of India?"
_USER, _REPLY = {"role": "user", "content": _PROBE}, {"role": "assistant", "content": "New Delhi"}
# A template may want chats of one shape: it is refused only if it takes none of them.
_PROBES: tuple[Prompt, ...] = (_PROBE, [_USER, _REPLY, _USER], [{"role": "system", "content": "Be brief."}, _USER])


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

    def __init__(self, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase | PlainTemplate) -> None:
        self._spec = spec
        self._tokenizer = tokenizer
        self._arguments = spec.chat_template_kwargs or {}
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
        messages = chat(self._spec, prompt)
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self._arguments
            )
        except Exception as error:  # A template is a program: it can raise anything.
            raise ChatError(f"{TEMPLATE_REFUSED}: {first_line(error)}") from error
        assert isinstance(rendered, str)
        return rendered


def check_template(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase | PlainTemplate) -> list[str]:
    """Try the chat template on sample prompts, before a row depends on it.

    Returns:
        A sentence for the operator if the template leaves out the system message.

    Raises:
        InputError: the template refuses every prompt with these settings, or leaves the prompt out.
    """
    renderer = Renderer(spec, tokenizer)
    if not renderer.chat:
        return []
    texts, errors = [], []
    for probe in _PROBES:
        try:
            texts.append(renderer.render(probe))
        except ChatError as error:
            errors.append(str(error).removeprefix(f"{TEMPLATE_REFUSED}: "))
    if not texts:
        advice = "leave out system, or put its text into template" if spec.system else "mend it, or name another model"
        raise InputError(
            f"the chat template of the model '{spec.model}' refuses every prompt"
            f"{' with a system message' if spec.system else ''}: {errors[0]}; {advice}"
        )
    if not any(_PROBE in text for text in texts):
        raise InputError(
            f"the chat template of the model '{spec.model}' leaves the prompt out: mend it, or name another model"
        )
    if spec.system is not None and not any(spec.system.strip() in text for text in texts):
        return [f"the chat template of the model '{spec.model}' leaves out the system message of the job file"]
    return []


def _wrap(template: str, text: str) -> str:
    # str.format would trip over the braces of prompts and few-shot examples.
    return template.replace(PLACEHOLDER, text)
