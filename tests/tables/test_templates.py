"""Prompts of several columns, and of fields at a dotted path."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.errors import InputError
from batchroute.prompt import Prompt
from batchroute.tables.chats import BadPrompt
from batchroute.tables.files import Files
from batchroute.tables.parquet import PromptTable
from batchroute.tables.prompts import Prompts, prompt_columns
from batchroute.tables.templates import MessageTemplate

TABLE = pa.table(
    {
        "title": ["Fox", None],
        "n": [1, 2],
        "ok": [True, False],
        "tags": [["a", "b"], []],
        "meta": [{"x": {"y": "deep"}}, {"x": None}],
        "body": [json.dumps({"messages": [{"role": "user", "content": "hi"}], "topic": "zoo"}), "{broken"],
        "a.b": ["dotted", "name"],
        "odd {title}": ["odd", "name"],
    }
)


def read(spec: Any, table: pa.Table = TABLE, **options: Any) -> list[Prompt | BadPrompt]:
    prompts = Prompts.of(spec, PromptTable([], table.schema, [0], Files()), **options)
    return prompts.read(table.select(prompts.columns))


@pytest.mark.parametrize(
    ("spec", "prompt"),
    [
        ("Classify: {title}\n\n{n}", "Classify: Fox\n\n1"),
        ("{title}{title}", "FoxFox"),
        ("{ok} {tags}", 'true ["a", "b"]'),
        ("{meta.x.y}, {body.topic}", "deep, zoo"),
        ("{a.b} {title}", "dotted Fox"),
        ("{{title}}: {title}", "{title}: Fox"),
        ('{title} as {"label": "x", "sure": {}}', 'Fox as {"label": "x", "sure": {}}'),
        ("odd {title}", "odd"),
        ("meta.x.y", "deep"),
        ("body.topic", "zoo"),
    ],
)
def test_a_prompt_of_fields(spec: str, prompt: str) -> None:
    assert read(spec)[0] == prompt


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("Classify: {title}", BadPrompt("null_prompt", "'title' is null")),
        ("{meta.x.y}!", BadPrompt("null_prompt", "'meta.x.y' is null")),
        ("meta.x.y", BadPrompt("null_prompt", "the prompt is null")),
        (
            "{body.topic}!",
            BadPrompt("bad_chat", "column 'body' holds no JSON, and input.prompt names a field in it"),
        ),
    ],
)
def test_a_row_without_a_value_has_no_prompt(spec: str, error: BadPrompt) -> None:
    assert read(spec)[1] == error


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("{tilte}!", "input.prompt: no column 'tilte' in the input; it has title, n, "),
        ("tilte", "input.prompt: no column 'tilte' in the input; it has title, n, "),
        ("meta.z", "input.prompt: no field 'z' in 'meta'; it has x"),
        ("n.z", "input.prompt: 'n' is int64 and has no field 'z'"),
        ("n", "input.prompt: column 'n' is int64; a prompt is text, or a list of messages"),
    ],
)
def test_a_field_that_is_not_there_is_named(spec: str, error: str) -> None:
    with pytest.raises(InputError) as refusal:
        read(spec)
    assert str(refusal.value).startswith(error)


def test_messages_of_templates() -> None:
    spec = [
        MessageTemplate(role="system", content="Be brief."),
        MessageTemplate(role="user", content="{title}?"),
    ]
    assert read(spec) == [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Fox?"}],
        BadPrompt("null_prompt", "'title' is null"),
    ]


def test_a_chat_within_json() -> None:
    found = read("body.messages", kind="chat")
    assert found[0] == [{"role": "user", "content": "hi"}]
    assert isinstance(found[1], BadPrompt)


def test_columns_that_prompts_are_made_of() -> None:
    assert prompt_columns("{n} {meta.x.y} {n}", TABLE.schema) == ["n", "meta"]
    assert prompt_columns([{"role": "user", "content": "{title}"}], TABLE.schema) == ["title"]
    assert prompt_columns("gone", TABLE.schema) == []


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (['[{"role": "user", "content": "a"}]'], "chat"),
        ([None, "", '[{"role": "user", "content": "a"}]', "[broken", '{"b": 1}'], "chat"),
        (['[{"role": "user", "content": "a"}]', "Hello."], "text"),
        (['[{"role": "user", "content": "a"}]', '"Hello."', '"Hello again."'], "chat"),
        (['[{"role": "user", "content": "a"}]', '"Hello", she said.'], "text"),
        (["Hello.", '{"a": 1}'], "text"),
        (['{"a": 1}'], "text"),
        ([], "text"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "of", [pa.string(), pa.large_string(), pa.json_(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_the_first_rows_show_whether_text_is_chats(
    tmp_path: Any, texts: list[str | None], kind: str, of: pa.DataType
) -> None:
    storage = pa.array(texts, pa.string())
    column = pa.ExtensionArray.from_storage(of, storage) if isinstance(of, pa.BaseExtensionType) else storage.cast(of)
    pq.write_table(pa.table({"prompt": column}), tmp_path / "a.parquet")
    files = Files(str(tmp_path / "a.parquet"))
    table = PromptTable.open(files.find(), files)
    assert Prompts.of("prompt", table).kind == kind
    assert Prompts.of("prompt", table, chat=True).kind == "chat"
    assert Prompts.of("prompt", table, chat=False).kind == "text"
    assert Prompts.of("prompt", table, kind="text").kind == "text"
