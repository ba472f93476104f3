from __future__ import annotations

import base64

import pytest

from batchroute.redaction import (
    Redactor,
    hide_parameters,
    host,
    is_secret,
    is_secret_variable,
    passwords,
    without_quotes,
)

NOTHING = "an error that quotes a prompt and is not shown"


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


@pytest.mark.parametrize(
    ("words", "prompt", "shown"),
    [
        ("HTTP 400: no such role", "tell me a story about a role", "HTTP 400: no such role"),
        ("HTTP 400: cannot read 'my number is 4711'", "my number is 4711", "HTTP 400"),
        ("HTTP 403: blocked: my\\nnumber is 4711 and", "Dear Sir,\nmy\nnumber is 4711 and I", "HTTP 403"),
        ("HTTP 403: 我的号码是四七一一请你告诉我怎办", [{"content": "我的号码是四七一一请你告诉我怎办"}], "HTTP 403"),
        ("ValueError: short", "short", "ValueError"),
        ("HTTP 400: a", "a", "HTTP 400: a"),
        ("my pension number is 4711: bad", "my pension number is 4711", NOTHING),
    ],
)  # fmt: skip
def test_an_error_is_cut_where_it_quotes_a_prompt(words: str, prompt: object, shown: str) -> None:
    found = without_quotes(words, prompt)
    assert found.removesuffix(" (the rest quotes a prompt and is not shown)") == shown


def test_a_url_without_a_user_holds_no_secret() -> None:
    assert passwords("https://h/v1") == []
    assert (host("https://me:x@h:8/v1"), host("https://h/v1")) == ("h:8", "h")


@pytest.mark.parametrize(
    "url",
    [
        "https://h/v1?password=pa%20ss",
        "https://h/v1?a=1&api_key=pa+ss&b=2",
        "https://h/v1?X-Amz-Signature=pa%20ss#part",
        "postgresql://h/db?sslkey=pa%20ss",
    ],
)
def test_a_secret_parameter_of_a_url_is_hidden(url: str) -> None:
    redactor = Redactor(passwords(url))
    hidden = redactor.text(f"{url} said: pa ss is wrong")
    assert all(form not in hidden for form in ("pa ss", "pa%20ss", "pa+ss"))
    assert redactor.text("https://h/v1?a=1&b=2") == "https://h/v1?a=1&b=2"


def test_names_of_secrets() -> None:
    for name in ("password", "sslkey", "privateKey", "access_token", "sig", "passcode", "X-Goog-Credential"):
        assert is_secret(name), name
    for name in ("sslmode", "authenticator", "connect_timeout", "signed", "user"):
        assert not is_secret(name), name
    for name in ("HF_TOKEN", "s3.secret-access-key", "OPENAI_API_KEY", "PGPASSWORD_PASSWD", "SMTP_AUTH"):
        assert is_secret_variable(name), name
    for name in ("TOKENIZERS_PARALLELISM", "KEYBOARD", "AUTHOR"):
        assert not is_secret_variable(name), name


def test_parameters_of_urls_in_text_are_hidden() -> None:
    text = "GET https://a/b?sv=1&sig=abc failed, see 'https://c/d?e=f' (why?)"
    assert hide_parameters(text) == "GET https://a/b?*** failed, see 'https://c/d?***' (why?)"
