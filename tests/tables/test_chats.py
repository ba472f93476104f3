"""Chats in the spellings that people store them in."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from batchroute.prompt import as_text, other_than_text
from batchroute.tables.chats import BadPrompt, is_chat, looks_like_chat, read_chat, read_json

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
SHAREGPT = [{"from": "system", "value": "be brief"}, {"from": "human", "value": "hello"}]
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": null}'}}


@pytest.mark.parametrize(
    "stored",
    [
        CHAT,
        SHAREGPT,
        {"messages": CHAT},
        {"messages": json.dumps(CHAT)},
        {"conversations": SHAREGPT, "id": 7},
        {"system": "be brief", "conversations": SHAREGPT[1:]},
        [{"role": "system", "content": ["be brief"]}, {"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        [CHAT[0], {"role": "user", "content": {"type": "input_text", "text": "hello"}}],
    ],
    ids=str,
)
def test_every_spelling_is_the_same_chat(stored: Any) -> None:
    assert read_chat(stored) == CHAT
    assert read_json(json.dumps(stored)) == CHAT
    assert looks_like_chat(json.dumps(stored))


def test_texts_of_one_message_are_joined() -> None:
    assert read_chat([{"role": "user", "content": ["one", {"text": "two"}]}]) == [
        {"role": "user", "content": "one\ntwo"}
    ]


def test_an_image_is_kept_beside_the_text_that_the_router_reads() -> None:
    chat = read_chat([{"role": "user", "content": ["what is it?", IMAGE]}])
    assert chat == [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, IMAGE]}]
    assert as_text(chat) == "what is it?"
    assert other_than_text(chat) == "message 0 holds image_url, which is no text"
    assert other_than_text(CHAT) is None


def test_an_image_alone_is_a_prompt() -> None:
    assert read_chat([{"role": "user", "content": [IMAGE]}]) == [{"role": "user", "content": [IMAGE]}]


def test_calls_of_tools_and_their_results_are_kept() -> None:
    stored = [
        {"role": "user", "content": "weather?", "weight": 3},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "weather"},
    ]
    assert read_chat(stored) == [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "rain", "name": "weather", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        (7, "not a chat: neither a list of messages nor an object with 'messages'"),
        ({"text": "hello"}, "not a chat: neither a list of messages nor an object with 'messages'"),
        ({"messages": "hello"}, "'messages' is no list of messages"),
        ([*CHAT, None], "message 2 is null"),
        ([*CHAT, "hello"], "message 2 is no object with role and content"),
        ([{"content": "hello"}], "message 0 has no role"),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": 7}], "the content of message 0 is neither text nor a list of parts"),
        ([{"role": "user", "content": [None]}], "the content of message 0 is neither text nor a list of parts"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "a part of message 0 is text without a text"),
        (
            [{"from": "narrator", "value": "hello"}],
            "message 0 is from nobody that is a role; use human, gpt, system or tool",
        ),
    ],
    ids=str,
)
def test_a_chat_that_cannot_be_understood_says_why(stored: Any, error: str) -> None:
    assert read_chat(stored) == BadPrompt("bad_chat", error)


def test_tools_of_a_single_chat_are_refused_as_they_would_not_be_sent() -> None:
    found = read_chat({"messages": CHAT, "tools": [{"type": "function"}]})
    assert isinstance(found, BadPrompt)
    assert "define them in models.*.extra_body" in found.error
    assert read_chat({"messages": CHAT, "tools": []}) == CHAT


@pytest.mark.parametrize("stored", [[], {"messages": []}, [{"role": "user", "content": " "}]], ids=str)
def test_a_chat_without_words_is_empty(stored: Any) -> None:
    found = read_chat(stored)
    assert isinstance(found, BadPrompt)
    assert found.error_type == "empty_prompt"


@pytest.mark.parametrize("text", ["[{", '[{"role": "user", "secret', "[" * 100_000], ids=len)
def test_broken_json_is_told_without_a_word_of_it(text: str) -> None:
    found = read_json(text)
    assert isinstance(found, BadPrompt)
    assert found.error_type == "bad_chat"
    assert "secret" not in found.error


def test_half_a_surrogate_pair_is_no_text() -> None:
    found = read_json(r'[{"role": "user", "content": "\ud83d"}]')
    assert found == BadPrompt("bad_text", "not valid Unicode: half of a surrogate pair")
    assert read_json(r'[{"role": "user", "content": "\ud83d\ude00"}]') == [{"role": "user", "content": "😀"}]


def test_what_may_have_been_a_chat_counts_neither_way() -> None:
    assert looks_like_chat("hello") is False
    assert looks_like_chat(" ") is None
    assert looks_like_chat('{"a": 1}') is None
    assert looks_like_chat("[broken") is None


_PART = pa.struct([("type", pa.string()), ("text", pa.string())])
_TEXT = pa.string()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)])), True),
        (pa.list_(pa.struct([("from", _TEXT), ("value", _TEXT)])), True),
        (pa.list_(pa.struct([("role", _TEXT), ("content", pa.list_(_PART))])), True),
        (pa.list_(pa.struct([("role", pa.dictionary(pa.int8(), _TEXT)), ("content", pa.string_view())])), True),
        (pa.struct([("messages", pa.large_list(pa.struct([("role", _TEXT), ("content", _TEXT)])))]), True),
        (pa.list_(pa.struct([("role", _TEXT), ("content", pa.int64())])), False),
        (pa.list_(pa.struct([("role", _TEXT)])), False),
        (pa.list_(_TEXT), False),
        (pa.struct([("messages", _TEXT)]), False),
    ],
    ids=str,
)
def test_types_of_chats(kind: pa.DataType, expected: bool) -> None:
    assert is_chat(kind) is expected
