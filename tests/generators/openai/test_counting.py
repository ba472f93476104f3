from __future__ import annotations

from pathlib import Path

import pytest

from batchroute.errors import InputError
from batchroute.generators.openai.counting import TokenCounter
from tests.generators.transformers.tiny_generators import CHAT_TEMPLATE
from tests.support.tiny_models import tiny_tokenizer

TEXT = "What is 12 plus 30?"
USER = {"role": "user", "content": TEXT}


def test_without_a_tokenizer_four_bytes_are_a_token() -> None:
    counter = TokenCounter(None)
    counter.check()
    assert [counter.text(text) for text in ("", "a", "abcd", "abcde", "ééé", "\ud800")] == [0, 1, 1, 2, 2, 1]
    assert counter.messages([USER, USER]) == counter.roughly([USER, USER]) == 2 * (4 + 5)


def test_a_named_tokenizer_counts_texts_without_special_tokens(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    counter = TokenCounter(str(tmp_path))
    counter.check()
    tokens = len(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    assert counter.text(TEXT) == tokens == len(tokenizer(TEXT)["input_ids"]) - 2
    assert counter.messages([USER, USER]) == 2 * tokens
    assert counter.text("") == 0


def test_a_named_tokenizer_counts_its_chat_template_too(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    rendered = f"[CLS]user: {TEXT}[SEP][CLS]assistant: "
    expected = len(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    assert TokenCounter(str(tmp_path)).messages([USER]) == expected


def test_messages_that_the_chat_template_refuses_are_counted_without_it(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    counter = TokenCounter(str(tmp_path))
    assert counter.messages([{"role": "tool", "content": TEXT}]) == counter.text(TEXT)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no/such-tokenizer", "^cannot load the tokenizer 'no/such-tokenizer': .*$"),
        (
            "embedded:no-such",
            "^the embedded model 'embedded:no-such' is not in .*: run 'batchroute models fetch no-such'$",
        ),
    ],
)
def test_a_tokenizer_that_is_not_there_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TokenCounter(name).check()
