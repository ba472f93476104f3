"""Keys of endpoints: where they are from, and what is said of those that are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from batchroute.errors import InputError
from batchroute.key import Key


def test_the_environment_is_where_a_key_is_unless_another_place_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_KEY", " sk-1\n")
    (tmp_path / "key").write_text("sk-2\n")
    assert Key("TEAM_KEY").value == "sk-1"
    assert Key("TEAM_KEY", str(tmp_path / "key")).value == "sk-2"
    assert Key("TEAM_KEY", command=[sys.executable, "-c", "print('sk-3')"]).value == "sk-3"
    assert Key("TEAM_KEY", command="echo 'sk 4'").value == "sk 4"
    assert Key("NO_SUCH_KEY").value == ""


def test_a_refused_key_is_read_again_once(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("old")
    key = Key("X", str(file))
    assert not key.renewed("old")
    file.write_text("new")
    assert key.renewed("old")
    assert key.value == "new"
    # Another thread was refused with the old one, too.
    file.write_text("newest")
    assert key.renewed("old")
    assert key.value == "new"


@pytest.mark.parametrize(
    ("content", "words"),
    [("sk-1\nsk-2", "line breaks"), ("schlüssel", "beyond ASCII"), (None, "cannot be read: No such file")],
)
def test_what_is_no_key_is_named_and_not_shown(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        Key("X", str(file))
    assert str(file) in str(caught.value)
    assert content is None or content not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["sh", "-c", "echo sk-secret; echo 'log in first' >&2; exit 3"], "ended with 3: log in first"),
        (["true"], "gives no key: it ended with 0"),
        (["no-such-program"], "the command no-such-program gives no key"),
    ],
)
def test_a_command_that_gives_no_key_says_why(command: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Key("X", command=command)
    assert "sk-secret" not in str(caught.value)
