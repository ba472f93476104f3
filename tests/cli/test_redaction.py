from __future__ import annotations

import base64

import pytest

from batchroute.redaction import Redactor, host, passwords


def test_secrets_are_hidden_as_they_are_and_as_a_url_writes_them() -> None:
    redactor = Redactor(["sk-a/b c"])
    assert redactor.text("key sk-a/b c, in a URL sk-a/b%20c") == "key ***, in a URL ***"


def test_the_longest_secret_is_hidden_whole() -> None:
    assert Redactor(["secret", "secret-and-more"]).text("secret-and-more, secret") == "***, ***"


def test_what_is_too_short_or_missing_is_no_secret() -> None:
    assert Redactor([None, "", "a"]).text("a banana") == "a banana"


def test_a_line_is_the_first_of_a_message_without_a_secret_that_would_be_cut_in_two() -> None:
    redactor = Redactor(["secret-key"])
    assert redactor.line(ValueError("one secret-key\ntwo")) == "one ***"
    assert redactor.line("x" * 295 + "secret-key") == "x" * 295 + "***"


@pytest.mark.parametrize(
    ("url", "plain", "sent"),
    [
        ("https://me:pa%20ss@h/v1", "pa ss", "me:pa ss"),
        ("https://token@h/v1", "token", "token:"),
    ],
)
def test_a_url_holds_a_secret_in_several_forms(url: str, plain: str, sent: str) -> None:
    redactor = Redactor(passwords(url))
    for text in (url, plain, f"Basic {base64.b64encode(sent.encode()).decode()}"):
        hidden = redactor.text(text)
        assert "***" in hidden
        assert plain not in hidden


def test_a_url_without_a_user_holds_no_secret() -> None:
    assert passwords("https://h/v1") == []
    assert (host("https://me:x@h:8/v1"), host("https://h/v1")) == ("h:8", "h")
