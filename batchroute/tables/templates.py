r"""Prompts that are made of several columns: `Classify: {title}\n\n{body}`, or a list of messages of this kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Key

from batchroute.prompt import Prompt
from batchroute.tables.chats import BadPrompt
from batchroute.tables.paths import Field, field_of

# A name has no quotes, colons and commas, so that JSON in a template is text.
_NAME = r"""\{([^\s{}"':,](?:[^{}"':,\n]*[^\s{}"':,])?)\}"""
_PLACEHOLDER = re.compile(rf"\{{{_NAME}\}}|{_NAME}")

Pieces = list[str | Field]


class MessageTemplate(BaseModel):
    """A message of `input.prompt`."""

    model_config = ConfigDict(extra="forbid")

    role: str = Key(min_length=1)
    content: str = Key(description="text with columns in braces")


@dataclass(frozen=True, slots=True)
class Template:
    """Attributes:
    texts: with the role of each; None for a prompt that is one text.
    """

    texts: list[tuple[str | None, Pieces]]

    @property
    def fields(self) -> list[Field]:
        """The fields in it, each once."""
        return list(dict.fromkeys(piece for _, pieces in self.texts for piece in pieces if isinstance(piece, Field)))

    def prompts(self, batch: pa.RecordBatch | pa.Table) -> Iterable[Prompt | BadPrompt]:
        """One entry a row."""
        fields = self.fields
        for row in zip(*(field.values(batch) for field in fields), strict=True):
            yield self._prompt(dict(zip(fields, row, strict=True)))

    def _prompt(self, values: dict[Field, Any]) -> Prompt | BadPrompt:
        for field, value in values.items():
            if isinstance(value, BadPrompt):
                return value
            if value is None:
                return BadPrompt("null_prompt", f"'{field.name}' is null")
        shown = {field: _shown(value) for field, value in values.items()}
        messages = [
            (role, "".join(piece if isinstance(piece, str) else shown[piece] for piece in pieces))
            for role, pieces in self.texts
        ]
        (role, text), *_ = messages
        if role is None:
            return text
        return [{"role": role, "content": content} for role, content in messages]


def template_of(spec: str | Sequence[MessageTemplate], schema: pa.Schema, key: str) -> Template | None:
    """The template in the value of a key; None if the value has no column in braces, or is the name of a column.

    Raises:
        InputError: it names a column that is not there.
    """
    if not isinstance(spec, str):
        return Template([(message.role, _pieces(message.content, schema, key)) for message in spec])
    if spec in schema.names or not _PLACEHOLDER.search(spec):
        return None
    return Template([(None, _pieces(spec, schema, key))])


def _pieces(text: str, schema: pa.Schema, key: str) -> Pieces:
    """The text in pieces. `{{title}}` is the text `{title}`; other braces are text too."""
    pieces: Pieces = []
    at = 0
    for match in _PLACEHOLDER.finditer(text):
        literal, name = match.groups()
        pieces += [text[at : match.start()], f"{{{literal}}}" if name is None else field_of(name, schema, key)]
        at = match.end()
    return [piece for piece in [*pieces, text[at:]] if piece]


def _shown(value: Any) -> str:
    """A value of a column as people write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)
