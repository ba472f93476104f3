from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchroute.prompt import Prompt
from batchroute.tables.prompts import BadPrompt, column_type, digest, read_prompts, to_column

MESSAGES = column_type("messages")
GOOD_CHAT = [{"role": "user", "content": "hello"}]

# Each of these is no UTF-8: a cut character, a surrogate as CESU-8 writes it, an overlong slash, Latin-1, a stray byte.
NOT_UTF8 = [b"ab\xe2\x82", b"\xed\xa0\x80", b"\xc0\xaf", b"caf\xe9!", b"\x80"]


def text_array(values: list[bytes | None], kind: type = pa.StringArray) -> pa.Array:
    """A text array of these very bytes, as a reader that does not check them makes it."""
    offsets, data = [0], b""
    for value in values:
        data += value or b""
        offsets.append(len(data))
    width = "<i4" if kind is pa.StringArray else "<i8"
    valid = pa.py_buffer(
        np.packbits(np.array([value is not None for value in values], bool), bitorder="little").tobytes()
    )
    buffer = b"".join(offset.to_bytes(int(width[-1]), "little") for offset in offsets)
    return kind.from_buffers(len(values), pa.py_buffer(buffer), pa.py_buffer(data), valid)  # type: ignore[attr-defined]


def kinds(found: list[Prompt | BadPrompt]) -> list[str | None]:
    return [prompt.error_type if isinstance(prompt, BadPrompt) else None for prompt in found]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_good_text_is_read_as_it_stands(kind: pa.DataType) -> None:
    texts = ["hello", "  spaces stay \n", "ünïcode ☃ 😀", "\x00", "hello"]
    assert read_prompts(pa.array(texts, kind), "text") == texts


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, BadPrompt("null_prompt", "the prompt is null")),
        ("", BadPrompt("empty_prompt", "the prompt is empty")),
        (" \n\t ", BadPrompt("empty_prompt", "the prompt is only white space")),
        ("\u00a0\u2003", BadPrompt("empty_prompt", "the prompt is only white space")),
    ],
)
def test_a_bad_text_is_told_and_its_neighbours_are_read(text: str | None, error: BadPrompt) -> None:
    assert read_prompts(pa.array(["a", text, "b"], pa.string()), "text") == ["a", error, "b"]


@pytest.mark.parametrize("kind", [pa.StringArray, pa.LargeStringArray])
@pytest.mark.parametrize("bad", NOT_UTF8)
def test_bytes_that_are_no_utf8_spoil_only_their_own_row(bad: bytes, kind: type) -> None:
    found = read_prompts(text_array([b"a", bad, None, "☃".encode(), b" "], kind), "text")
    assert kinds(found) == [None, "bad_text", "null_prompt", None, "empty_prompt"]
    assert (found[0], found[3]) == ("a", "☃")
    assert isinstance(found[1], BadPrompt)
    assert found[1].error.startswith("not valid UTF-8: ")


def test_the_place_of_a_bad_byte_is_told_and_its_text_is_not() -> None:
    (found,) = read_prompts(text_array([b"secret \xff"]), "text")
    assert isinstance(found, BadPrompt)
    assert found.error == "not valid UTF-8: invalid start byte at byte 7"


def test_bad_bytes_in_a_dictionary_spoil_only_the_rows_that_use_them() -> None:
    column = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None, 0], pa.int32()), text_array([b"good", b"\xed\xa0\x80"])
    )
    found = read_prompts(column, "text")
    assert kinds(found) == [None, "bad_text", "null_prompt", None]
    assert (found[0], found[3]) == ("good", "good")


def test_bad_bytes_in_a_slice_are_found_at_their_row() -> None:
    column = text_array([b"\xff", b"a", b"\xff", b"b"]).slice(1, 3)
    assert kinds(read_prompts(column, "text")) == [None, "bad_text", None]


@given(st.lists(st.one_of(st.none(), st.binary(max_size=6)), max_size=8))
def test_any_bytes_are_read_or_told(values: list[bytes | None]) -> None:
    found = read_prompts(text_array(values), "text")
    assert len(found) == len(values)
    for value, prompt in zip(values, found, strict=True):
        if isinstance(prompt, str):
            assert prompt.strip()
            assert prompt.encode() == value
        else:
            assert prompt.error_type == expected_error(value)


def expected_error(value: bytes | None) -> str:
    if value is None:
        return "null_prompt"
    try:
        return "usable" if value.decode().strip() else "empty_prompt"
    except UnicodeDecodeError:
        return "bad_text"


def test_good_messages_are_read_as_they_stand() -> None:
    chat = [
        {"role": "system", "content": ""},
        {"role": "user", "content": " a "},
        {"role": "assistant", "content": "b"},
    ]
    assert read_prompts(pa.array([chat, GOOD_CHAT], MESSAGES), "messages") == [chat, GOOD_CHAT]


@pytest.mark.parametrize(
    ("chat", "error"),
    [
        (None, BadPrompt("null_prompt", "the prompt is null")),
        ([], BadPrompt("empty_prompt", "the list of messages is empty")),
        ([*GOOD_CHAT, None], BadPrompt("bad_chat", "message 1 is null")),
        ([{"role": None, "content": "a"}], BadPrompt("bad_chat", "message 0 has no role")),
        ([{"role": "", "content": "a"}], BadPrompt("bad_chat", "message 0 has no role")),
        ([*GOOD_CHAT, {"role": "user", "content": None}], BadPrompt("bad_chat", "message 1 has no content")),
        ([{"role": "user", "content": " "}] * 2, BadPrompt("empty_prompt", "all messages are empty")),
    ],
)
def test_a_bad_chat_is_told_and_its_neighbours_are_read(chat: list[dict[str, str]], error: BadPrompt) -> None:
    assert read_prompts(pa.array([GOOD_CHAT, chat, GOOD_CHAT], MESSAGES), "messages") == [GOOD_CHAT, error, GOOD_CHAT]


@pytest.mark.parametrize("bad", NOT_UTF8)
def test_bytes_that_are_no_utf8_spoil_only_their_own_chat(bad: bytes) -> None:
    contents = text_array([b"a", bad, b"b"])
    messages = pa.StructArray.from_arrays([pa.array(["user"] * 3), contents], names=["role", "content"])
    column = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), messages)
    found = read_prompts(column, "messages")
    assert kinds(found) == [None, "bad_text", None]
    assert found[2] == [{"role": "user", "content": "b"}]


def test_more_fields_of_a_message_are_left_out() -> None:
    kind = pa.list_(pa.struct([("name", pa.string()), ("role", pa.string()), ("content", pa.string())]))
    column = pa.array([[{"name": "x", **GOOD_CHAT[0]}]], kind)
    assert read_prompts(column, "messages") == [GOOD_CHAT]


@pytest.mark.parametrize("prompts", [["a", "☃"], [GOOD_CHAT, [*GOOD_CHAT, {"role": "assistant", "content": ""}]]])
def test_a_shards_column_gives_the_prompts_back(prompts: list[Prompt]) -> None:
    kind = "text" if isinstance(prompts[0], str) else "messages"
    column = to_column(prompts, kind)
    assert column.type == column_type(kind)
    assert read_prompts(column, kind) == prompts


def test_only_identical_prompts_share_a_digest() -> None:
    prompts: list[Prompt] = [
        "hello",
        "hello ",
        "Hello",
        GOOD_CHAT,
        [{"role": "system", "content": "hello"}],
        [*GOOD_CHAT, *GOOD_CHAT],
        [{"role": "user", "content": "hello\n"}],
    ]
    assert len({digest(prompt) for prompt in prompts}) == len(prompts)
    assert all(len(digest(prompt)) == 16 for prompt in prompts)
    assert digest(GOOD_CHAT) == digest([{"content": "hello", "role": "user"}])
