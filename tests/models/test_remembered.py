"""What was found out about a model is found once, and a cache folder that does not work costs time alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchroute.models.remembered import remembered

KNOWN = ("one", "two")


class Found:
    def __init__(self, value: str) -> None:
        self.value, self.times = value, 0

    def __call__(self) -> str:
        self.times += 1
        return self.value


def test_it_is_found_once_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = Found("one")
    assert [remembered("kind", {"model": "a"}, found, KNOWN) for _ in range(2)] == ["one", "one"]
    assert found.times == 1
    assert remembered("kind", {"model": "b"}, Found("two"), KNOWN) == "two"
    assert remembered("other", {"model": "a"}, Found("two"), KNOWN) == "two"
    assert len(list((tmp_path / "batchroute").rglob("*"))) == 5


@pytest.mark.parametrize("text", ["", "[]", '{"found": "three"}', '{"found": ["one"]}'])
def test_a_damaged_file_is_found_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remembered("kind", {}, Found("one"), KNOWN)
    (file,) = (tmp_path / "batchroute" / "kind").iterdir()
    file.write_text(text)
    assert remembered("kind", {}, Found("two"), KNOWN) == "two"
    assert remembered("kind", {}, Found("one"), KNOWN) == "two"


def test_a_folder_that_cannot_be_written_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert remembered("kind", {}, Found("one"), KNOWN) == "one"
