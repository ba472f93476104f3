"""Counting tokens of a model whose endpoint does not say how many there were."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batchroute import models
from batchroute.errors import InputError, first_line
from batchroute.prompt import Message, content_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Bytes of UTF-8 text, about, in most tokenizers and languages.
_BYTES_A_TOKEN = 4
_TOKENS_A_MESSAGE = 4


class TokenCounter:
    """Counts tokens by a named tokenizer; without one, estimates them by the number of bytes."""

    def __init__(self, tokenizer: str | None) -> None:
        self._name = tokenizer

    def roughly(self, messages: Sequence[Message]) -> int:
        return sum(_TOKENS_A_MESSAGE + _by_bytes(content_text(message)) for message in messages)

    def messages(self, messages: Sequence[Message]) -> int:
        """The tokens of a prompt, in the chat template if the tokenizer has one."""
        if self._name is None:
            return self.roughly(messages)
        if self._tokenizer.chat_template is None:
            return self._contents(messages)
        from jinja2 import TemplateError

        try:
            rendered = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, KeyError, ValueError):
            # The endpoint accepted messages that this template refuses, such as a system message.
            return self._contents(messages)
        return self.text(str(rendered))

    def _contents(self, messages: Sequence[Message]) -> int:
        return sum(self.text(content_text(message)) for message in messages)

    def text(self, text: str) -> int:
        if self._name is None:
            return _by_bytes(text)
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def check(self) -> None:
        """Raises:
        InputError: the named tokenizer is not there.
        """
        if self._name is not None:
            _ = self._tokenizer

    @functools.cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        assert self._name is not None
        folder = Path(self._name).expanduser()
        # A folder with a tokenizer and no model is enough.
        alone = (folder / "tokenizer_config.json").is_file()
        path = str(folder.resolve()) if alone else models.resolve(self._name)
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"cannot load the tokenizer '{self._name}': {first_line(error)}") from error
        return tokenizer


def _by_bytes(text: str) -> int:
    return -(-len(text.encode(errors="replace")) // _BYTES_A_TOKEN)
