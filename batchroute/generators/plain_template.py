"""A model's chat template, rendered as transformers renders it, for checks that must not take its seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchroute.models.plain import knows_tokenizer

if TYPE_CHECKING:
    from jinja2 import Template

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class PlainTemplate:
    """What `Renderer` needs of a tokenizer."""

    def __init__(self, chat_template: str | None, special_tokens: Mapping[str, str]) -> None:
        self.chat_template = chat_template
        self._special_tokens = special_tokens

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, tokenize: bool, add_generation_prompt: bool, **arguments: Any
    ) -> str:
        """The text of a chat; raises whatever the template does."""
        chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
        known = {**self._special_tokens, "tools": None, "documents": None, **arguments}
        return self._compiled.render(messages=chat, add_generation_prompt=add_generation_prompt, **known)

    @cached_property
    def _compiled(self) -> Template:
        # Only models with a template need it.
        from batchroute.generators.template_environment import environment

        assert self.chat_template is not None
        return environment().from_string(self.chat_template)


def read(folder: Path) -> PlainTemplate | None:
    """The template in a model's folder; None where it takes transformers to tell what it is, or whether the tokenizer
    can be loaded.
    """
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        if "auto_map" in settings or not knows_tokenizer(settings["tokenizer_class"]) or not _is_whole(folder):
            return None
        file = folder / "chat_template.jinja"
        template = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
        tokens = {name: settings[name] for name in _SPECIAL if settings.get(name) is not None}
        texts = {name: one["content"] if isinstance(one, dict) else one for name, one in tokens.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    # Several templates have names, of which transformers chooses one.
    several = (folder / "additional_chat_templates").exists() or not isinstance(template, str | None)
    return None if several else PlainTemplate(template, texts)


def _is_whole(folder: Path) -> bool:
    """Whether `tokenizer.json` begins and ends as it should. Reading all of it takes up to two seconds."""
    with (folder / "tokenizer.json").open("rb") as file:
        first = file.read(1)
        file.seek(-min(64, file.seek(0, 2)), 2)
        return first == b"{" and file.read().rstrip().endswith(b"}")
