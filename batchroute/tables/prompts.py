"""Prompts of a table: a usable prompt, or what is wrong, for each row; and prompts as the work folder keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.prompt import Prompt, other_than_text
from batchroute.tables.chats import (
    BadPrompt,
    is_chat,
    is_plain_chat,
    looks_like_chat,
    read_chat,
    read_json,
    without_nulls,
)
from batchroute.tables.parquet import PromptTable
from batchroute.tables.paths import Field, field_of
from batchroute.tables.templates import MessageTemplate, Template, template_of
from batchroute.tables.types import is_text

PromptKind = Literal["text", "messages", "chat"]
"""What the work folder keeps of prompts: `text`, `messages` with role and content, or any `chat` as JSON."""
Unsupported = Literal["large", "fail"]

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
DIGEST = pa.binary(16)
_ROWS_LOOKED_AT = 100
_KEY = "input.prompt"

Check = Callable[[Any], Prompt | BadPrompt]


@dataclass(frozen=True, slots=True)
class Prompts:
    """How prompts are made of the columns of a table.

    Attributes:
        unsupported: what becomes of prompts with parts that are no text.
    """

    source: Field | Template
    kind: PromptKind
    unsupported: Unsupported = "large"

    @classmethod
    def of(
        cls,
        spec: str | Sequence[MessageTemplate],
        table: PromptTable,
        kind: PromptKind | None = None,
        chat: bool | None = None,
        unsupported: Unsupported = "large",
    ) -> Prompts:
        """Args:
            spec: a column, the dotted path of a field, a template, or templates of messages.
            kind: which a run began with.
            chat: whether text is a chat in JSON; None: the first rows show it.

        Raises:
            InputError: a column is missing, or holds neither text nor a chat.
        """
        source = template_of(spec, table.schema, _KEY)
        if source is not None:
            (role, _), *_ = source.texts
            return cls(source, kind or ("text" if role is None else "messages"), unsupported)
        assert isinstance(spec, str)
        field = field_of(spec, table.schema, _KEY)
        return cls(field, kind or _kind_of(field, table, chat), unsupported)

    @property
    def columns(self) -> list[str]:
        """The columns of the table that are read."""
        fields = self.source.fields if isinstance(self.source, Template) else [self.source]
        return list(dict.fromkeys(field.column for field in fields))

    def read(self, batch: pa.RecordBatch | pa.Table) -> list[Prompt | BadPrompt]:
        """One entry a row."""
        values = self.source.prompts(batch) if isinstance(self.source, Template) else self.source.values(batch)
        check = self._check()
        prompts = [value if isinstance(value, BadPrompt) else check(value) for value in values]
        return prompts if self.kind != "chat" or self.unsupported == "large" else [_text_alone(p) for p in prompts]

    def stored(self, batch: pa.RecordBatch) -> pa.Array:
        """The prompts as a shard keeps them; null where a row has none that can be used."""
        if self.kind == "text" and isinstance(self.source, Field) and not self.source.json_path:
            return self.source.array(batch).cast(pa.large_string())
        prompts = self.read(batch)
        return to_column((None if isinstance(prompt, BadPrompt) else prompt for prompt in prompts), self.kind)

    def _check(self) -> Check:
        if self.kind != "chat" or isinstance(self.source, Template):
            return _check_text if self.kind == "text" else _check_messages
        if pa.types.is_nested(self.source.type):
            return _check_nested
        return _check_json_value if self.source.json_path else _check_json


def prompt_columns(spec: Any, schema: pa.Schema) -> list[str]:
    """The columns that prompts are made of, of those there are.

    Args:
        spec: `input.prompt` as a manifest has it.
    """
    if not isinstance(spec, str):
        spec = [MessageTemplate.model_validate(message) for message in spec]
    try:
        source = template_of(spec, schema, _KEY) or field_of(spec, schema, _KEY)
    except InputError:
        return []
    return Prompts(source, "text").columns


def _kind_of(field: Field, table: PromptTable, chat: bool | None) -> PromptKind:
    if is_text(field.type):
        chat = _shows_chats(field, table) if chat is None else chat
        return "chat" if chat else "text"
    if pa.types.is_null(field.type):
        # Of a night without rows, as pandas and pyarrow write one.
        return "text"
    if is_plain_chat(field.type):
        return "messages"
    if is_chat(field.type):
        return "chat"
    raise InputError(
        f"{_KEY}: column '{field.name}' is {field.type}; a prompt is text, or a list of messages {{role, content}}"
    )


def _shows_chats(field: Field, table: PromptTable) -> bool:
    """Whether the first rows of a column of text are chats in JSON rather than other text."""
    chats = others = 0
    for batch in table.reader([field.column]).read(0, min(table.rows, _ROWS_LOOKED_AT)):
        for value in field.values(batch):
            if isinstance(value, str):
                is_one = looks_like_chat(value)
            else:
                is_one = True if isinstance(value, list | dict) else None
            chats, others = chats + (is_one is True), others + (is_one is False)
    return chats > others


def column_type(kind: PromptKind) -> pa.DataType:
    """The type that a shard keeps its prompts in."""
    return _MESSAGES if kind == "messages" else pa.large_string()


def read_prompts(column: pa.Array, kind: PromptKind) -> list[Prompt | BadPrompt]:
    """One entry a row of `column`."""
    table = pa.table({"prompt": column})
    return Prompts(field_of("prompt", table.schema, _KEY), kind).read(table)


def to_column(prompts: Iterable[Prompt | None], kind: PromptKind) -> pa.Array:
    if kind == "chat":
        prompts = (None if prompt is None else json.dumps(prompt, ensure_ascii=False) for prompt in prompts)
    return pa.array(prompts, column_type(kind))


def of_shard(column: pa.ChunkedArray, kind: PromptKind) -> list[Prompt]:
    """The prompts that a shard keeps, for a model to answer."""
    prompts: list[Any] = column.to_pylist()
    return [json.loads(prompt) for prompt in prompts] if kind == "chat" else prompts


def digest(prompt: Prompt) -> bytes:
    """16 bytes that only identical prompts share."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _check_text(value: Any) -> Prompt | BadPrompt:
    if value is None:
        return BadPrompt("null_prompt", "the prompt is null")
    if not isinstance(value, str):
        return BadPrompt("bad_text", f"the prompt is a JSON {_JSON_NAMES.get(type(value), 'number')}, and no text")
    if not value:
        return BadPrompt("empty_prompt", "the prompt is empty")
    if value.isspace():
        return BadPrompt("empty_prompt", "the prompt is only white space")
    return value


_JSON_NAMES: Mapping[type, str] = {list: "list", dict: "object", bool: "boolean"}


def _check_messages(value: list[dict[str, Any] | None] | None) -> Prompt | BadPrompt:
    if value is None:
        return BadPrompt("null_prompt", "the prompt is null")
    if not value:
        return BadPrompt("empty_prompt", "the list of messages is empty")
    messages = []
    for number, message in enumerate(value):
        if message is None:
            return BadPrompt("bad_chat", f"message {number} is null")
        role, content = message.get("role"), message.get("content")
        if not role or content is None:
            return BadPrompt("bad_chat", f"message {number} has no {'content' if role else 'role'}")
        messages.append({"role": role, "content": content})
    if all(not message["content"].strip() for message in messages):
        return BadPrompt("empty_prompt", "all messages are empty")
    return messages


def _check_nested(value: Any) -> Prompt | BadPrompt:
    return BadPrompt("null_prompt", "the prompt is null") if value is None else read_chat(without_nulls(value))


def _check_json(value: str | None) -> Prompt | BadPrompt:
    if not value or value.isspace():
        return _check_text(value)
    prompt = read_json(value)
    return _check_text(prompt) if isinstance(prompt, str) else prompt


def _check_json_value(value: Any) -> Prompt | BadPrompt:
    """Of a value within JSON: a chat, a chat in JSON of its own, or text."""
    if value is None or isinstance(value, str):
        return _check_json(value) if value and value.lstrip().startswith(("[", "{")) else _check_text(value)
    return read_chat(value)


def _text_alone(prompt: Prompt | BadPrompt) -> Prompt | BadPrompt:
    other = None if isinstance(prompt, BadPrompt) else other_than_text(prompt)
    return prompt if other is None else BadPrompt("unsupported", other)
